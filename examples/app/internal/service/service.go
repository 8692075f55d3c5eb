// Package service is what every process of honeyDue does alike: structured logs on stdout, an orderly
// end on SIGTERM, and exit codes that say how it ended.
package service

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

// Run is a service: it works until ctx ends, and returns nil when it ended as it was told to.
type Run func(ctx context.Context, logger *slog.Logger) error

// Main runs the service and exits the process: 0 after SIGTERM or SIGINT, 1 when it failed.
func Main(name string, run Run) {
	os.Exit(supervise(context.Background(), name, run, os.Stdout))
}

func supervise(ctx context.Context, name string, run Run, stdout io.Writer) int {
	logger := slog.New(slog.NewJSONHandler(stdout, nil)).With("service", name)
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// A second signal ends the process at once, as if it had never been handled.
	context.AfterFunc(ctx, stop)

	logger.Info("starting")
	if err := run(ctx, logger); err != nil {
		logger.Error("failed", "cause", err.Error())
		return 1
	}
	logger.Info("stopped")
	return 0
}

// Port is the TCP port to listen on: PORT, or fallback where that is not set.
func Port(getenv func(string) string, fallback int) (int, error) {
	text := getenv("PORT")
	if text == "" {
		return fallback, nil
	}
	port, err := strconv.Atoi(text)
	if err != nil || port < 1 || port > 65535 {
		return 0, fmt.Errorf("PORT=%q is no port: set it to 1..65535, or leave it out for %d", text, fallback)
	}
	return port, nil
}
