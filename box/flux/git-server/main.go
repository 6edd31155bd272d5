// Command git-server serves the git repositories below a directory over HTTP, to read: Flux follows nothing else, and git
// itself brings only the half of a server that a web server runs for it.
package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "git-server:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) != 2 {
		return errors.New("usage: git-server ADDRESS DIRECTORY")
	}
	git, err := exec.LookPath("git")
	if err != nil {
		return err
	}
	server := http.Server{
		Addr: arguments[0],
		Handler: &cgi.Handler{
			Path: git,
			Args: []string{"http-backend"},
			Root: "/",
			Env:  []string{"GIT_PROJECT_ROOT=" + arguments[1], "GIT_HTTP_EXPORT_ALL=1"},
		},
		ReadHeaderTimeout: 10 * time.Second,
	}
	return server.ListenAndServe()
}
