package index

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugePage is the size of a huge page of amd64 and arm64, in bytes.
const hugePage = 2 << 20

// adviseHuge has the kernel give memory that nobody has touched yet in huge pages:
// of a file of a gigabyte that saves hundreds of thousands of page faults, each as
// long as a line takes to read. It is advice, and no loss where it is not taken.
func adviseHuge(b []byte) {
	if len(b) < 2*hugePage {
		return
	}
	begin := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	skip := int(-begin & (hugePage - 1))
	whole := (len(b) - skip) &^ (hugePage - 1)
	_ = unix.Madvise(b[skip:skip+whole], unix.MADV_HUGEPAGE)
}
