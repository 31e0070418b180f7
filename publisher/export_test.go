package publisher

import (
	"io"

	"github.com/imgd/imgd"
)

// DifferTars is differTars of tars that hold at most a megabyte.
func DifferTars(a, b io.Reader) (*imgd.Difference, error) { return differTars(a, b, 1<<20) }
