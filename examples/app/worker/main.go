// worker: honeyDue's background worker, as an example. It listens to nothing and reaches for nothing.
package main

import (
	"context"
	"log/slog"
	"os"
	"time"

	"honeydue.example/app/internal/service"
)

// period of the heartbeat: often enough to see within a minute that it stands still.
const period = 30 * time.Second

// backends are the settings of what the real worker talks to. This one only says which it was given.
var backends = []string{
	"REDIS_URL", "DB_HOST", "DB_PORT", "DB_SSLMODE", "POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD",
}

func main() {
	service.Main("worker", func(ctx context.Context, logger *slog.Logger) error {
		set, missing := present(os.LookupEnv, backends)
		logger.Info("settings", "set", set, "missing", missing) // names: a value never reaches the log
		ticker := time.NewTicker(period)
		defer ticker.Stop()
		beat(ctx, ticker.C, logger)
		return nil
	})
}

// present tells which of names are set, and not empty, from those which are not.
func present(lookup func(string) (string, bool), names []string) (set, missing []string) {
	set, missing = []string{}, []string{} // [] in the log, never null
	for _, name := range names {
		if value, found := lookup(name); found && value != "" {
			set = append(set, name)
		} else {
			missing = append(missing, name)
		}
	}
	return set, missing
}

// beat logs a heartbeat at once and at each tick until ctx ends. One goroutine, one beat at a time:
// that there is one process too is the Deployment's doing (Recreate, one replica).
func beat(ctx context.Context, ticks <-chan time.Time, logger *slog.Logger) {
	for count := 1; ; count++ {
		logger.Info("heartbeat", "count", count)
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		}
	}
}
