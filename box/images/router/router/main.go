// Command cascina-router makes a router do what the files that it is given say:
//
//	cascina-router take N    a piece of a bundle of files, from its input, which begins at byte N of the whole
//	cascina-router apply     checks the files of the bundle, puts them in force, tells the hash that is
//	cascina-router state     what is in force, and who is at the other ends of tunnels
//	cascina-router turn      what depends on whose turn it is, of two routers; keepalived calls it
//	cascina-router watch     keeps one of two routers quiet outside while it hears nobody in the farm; it goes on for ever
//	cascina-router count N   what was counted, the counters from the Nth on, as many as an agent can tell of at once
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
	router := Router{Folder: "/run/router", System: Linux{}}
	var answer any
	switch {
	case len(os.Args) == 3 && os.Args[1] == "take":
		if err := router.Take(os.Args[2], os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, "cascina-router:", err)
			os.Exit(1)
		}
		return
	case len(os.Args) == 2 && os.Args[1] == "apply":
		answer = router.Apply()
	case len(os.Args) == 2 && os.Args[1] == "state":
		answer = router.State()
	case len(os.Args) == 2 && os.Args[1] == "turn":
		if err := router.Turn(); err != nil {
			fmt.Fprintln(os.Stderr, "cascina-router:", err)
			os.Exit(1)
		}
		return
	case len(os.Args) == 2 && os.Args[1] == "watch":
		if err := router.Watch(); err != nil {
			fmt.Fprintln(os.Stderr, "cascina-router:", err)
			os.Exit(1)
		}
		return
	case len(os.Args) == 3 && os.Args[1] == "count":
		counts, err := router.Count(os.Args[2])
		if err != nil {
			fmt.Fprintln(os.Stderr, "cascina-router:", err)
			os.Exit(1)
		}
		answer = counts
	default:
		fmt.Fprintln(os.Stderr, "usage: cascina-router take N|apply|state|turn|watch|count N")
		os.Exit(2)
	}
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		fmt.Fprintln(os.Stderr, "cascina-router:", err)
		os.Exit(1)
	}
}
