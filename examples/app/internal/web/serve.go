// Package web is what the two services that listen have in common.
package web

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"honeydue.example/app/internal/health"
)

// DrainTime is how long requests that are under way may still take. A pod has 45 s from "terminating"
// to SIGKILL and sleeps through the first 10 of them (preStop): 30 s fit with some to spare.
const DrainTime = 30 * time.Second

// Serve answers requests on listener until ctx ends. Then it drains: it accepts no connection any
// more, lets the requests under way finish, and returns nil; an error if they take longer than drain.
func Serve(
	ctx context.Context, listener net.Listener, handler http.Handler, state *health.State,
	drain time.Duration, logger *slog.Logger,
) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		// Longer than Traefik keeps an idle connection (90 s): the side that sends must be the one
		// that closes, or a request meets a connection that is just going.
		IdleTimeout: 120 * time.Second,
		ErrorLog:    slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	logger.Info("listening", "address", listener.Addr().String())

	select {
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	state.Drain()
	logger.Info("draining", "at_most", drain.String())
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	if err := server.Shutdown(deadline); err != nil {
		return fmt.Errorf("requests were cut off after %s: %w", drain, err)
	}
	return nil
}
