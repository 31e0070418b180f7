package main

import "testing"

// A pull request that is closed waits for its turn, and no forge waits for it.
func TestClosePull(t *testing.T) {
	d := &daemon{closings: make(chan closing, 1)}
	if err := d.closePull("hello", "refs/pull/7/head", "github:ada"); err != nil {
		t.Fatal(err)
	}
	if err := d.closePull("hello", "refs/pull/8/head", "github:ada"); err == nil {
		t.Error("there is no room, and nobody says so")
	}
	if got, want := <-d.closings, (closing{"hello", "refs/pull/7/head", "github:ada"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
