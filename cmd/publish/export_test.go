package main

// Main is for testscript, which runs it as a process of its own.
var Main = main
