package kit_test

import (
	"os"
	"testing"

	"github.com/imgd/imgd/integration/kit"
)

func TestMain(m *testing.M) {
	kit.ServeNATS()
	os.Exit(m.Run())
}
