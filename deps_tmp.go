//go:build deps

package imgd

import (
	_ "github.com/drone/go-scm/scm"
	_ "github.com/drone/go-scm/scm/driver/github"
	_ "github.com/drone/go-scm/scm/driver/gitlab"
	_ "github.com/drone/go-scm/scm/driver/gitea"
	_ "github.com/prometheus/client_golang/prometheus"
	_ "github.com/prometheus/client_golang/prometheus/promhttp"
	_ "github.com/prometheus/client_golang/prometheus/testutil"
)
