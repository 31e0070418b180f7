package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"testing"
	"time"

	"github.com/imgd/imgd/index"
)

func TestZZ(t *testing.T) {
	for _, n := range []int{1000, 100000, 1000000} {
		dir := fmt.Sprintf("/tmp/zz/%d", n)
		if _, err := os.Stat(dir + "/images.json"); err != nil {
			t0 := time.Now()
			size, err := makeIndex(dir, n)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Println("made", n, size, time.Since(t0))
		}
		runtime.GC()
		var m0, m1 runtime.MemStats
		runtime.ReadMemStats(&m0)
		f, _ := os.Create(fmt.Sprintf("/tmp/zz/cpu%d.prof", n))
		pprof.StartCPUProfile(f)
		t0 := time.Now()
		x, err := index.Open(index.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		d := time.Since(t0)
		pprof.StopCPUProfile()
		runtime.GC()
		runtime.ReadMemStats(&m1)
		info, _ := os.Stat(dir + "/images.json")
		fmt.Printf("%d: open %v, heap per record %d, file per record %d\n", n, d, int(m1.HeapAlloc-m0.HeapAlloc)/n, int(info.Size())/n)
		x.Close()
	}
}
