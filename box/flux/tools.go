//go:build tools

// Package tools keeps Flux's controllers in the module graph.
package tools

import (
	_ "github.com/fluxcd/kustomize-controller"
	_ "github.com/fluxcd/source-controller"
)
