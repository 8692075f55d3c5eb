// api: honeyDue's HTTP API and its landing page, as an example.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"

	"honeydue.example/app/internal/health"
	"honeydue.example/app/internal/service"
	"honeydue.example/app/internal/web"
)

func main() { service.Main("api", run) }

func run(ctx context.Context, logger *slog.Logger) error {
	port, err := service.Port(os.Getenv, 8000)
	if err != nil {
		return err
	}
	binary, err := ownDigest()
	if err != nil {
		return err
	}
	state := &health.State{}
	handler, err := routes(options{
		health:  state,
		tasks:   newTasks(1000),
		origins: list(os.Getenv("CORS_ALLOWED_ORIGINS")),
		version: version{Binary: binary, Go: runtime.Version()},
		logger:  logger,
	})
	if err != nil {
		return err
	}
	// All addresses, unless HOST names one: a rehearsal listens on loopback only.
	listener, err := net.Listen("tcp", net.JoinHostPort(os.Getenv("HOST"), strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return web.Serve(ctx, listener, handler, state, web.DrainTime, logger)
}

// list splits a setting at its commas.
func list(text string) []string {
	var items []string
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

// ownDigest is the sha256 of the running binary. No commit is compiled in: every commit would then be
// another binary, another image, another rollout, though not a line of this service had changed.
// Which tag a digest was pushed under stands in the Deployment's annotation.
func ownDigest() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("own binary: %w", err)
	}
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("own binary: %w", err)
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", fmt.Errorf("own binary: %w", err)
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}
