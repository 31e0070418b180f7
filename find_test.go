package imgd_test

import (
	"errors"
	"maps"
	"testing"

	"github.com/imgd/imgd"
)

func TestParseLabels(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		said []string
		want map[string]string // nil with said: an error
	}{
		{nil, nil},
		{[]string{"env=prod", "team="}, map[string]string{"env": "prod", "team": ""}},
		{[]string{"env=prod", "env=prod"}, map[string]string{"env": "prod"}},
		{[]string{"url=a=b"}, map[string]string{"url": "a=b"}},
		{[]string{"env=prod", "env=dev"}, nil},
		{[]string{"env"}, nil},
		{[]string{"=prod"}, nil},
	} {
		got, err := imgd.ParseLabels(test.said)
		if !maps.Equal(got, test.want) || errors.Is(err, imgd.ErrInvalid) != (test.want == nil && test.said != nil) {
			t.Errorf("%q: got %v, %v, want %v", test.said, got, err, test.want)
		}
	}
}
