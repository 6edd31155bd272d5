// Command cascina-router makes a router do what the files that it is given say:
//
//	cascina-router apply     reads a bundle of files from its input, checks them, puts them in force, tells the hash that is
//	cascina-router status    what is in force, and what was counted
//
// Answers are JSON on standard output. What a file gets wrong is told in the answer, and the files that were in force
// before stay so.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		usage()
	}
	router := Router{Folder: "/run/router", System: Linux{}}
	var answer any
	switch os.Args[1] {
	case "apply":
		answer = router.Apply(os.Stdin)
	case "status":
		answer = router.Status()
	default:
		usage()
	}
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		fmt.Fprintln(os.Stderr, "cascina-router:", err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: cascina-router apply|status")
	os.Exit(2)
}
