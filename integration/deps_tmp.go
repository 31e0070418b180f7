//go:build deps

package integration

import (
	_ "github.com/Shopify/toxiproxy/v2"
	_ "github.com/santhosh-tekuri/jsonschema/v6"
	_ "go.yaml.in/yaml/v4"
	_ "github.com/drone/go-scm/scm"
)
