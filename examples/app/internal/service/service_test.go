package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"syscall"
	"testing"
)

func TestSIGTERMEndsTheServiceWithZero(t *testing.T) {
	var log bytes.Buffer
	code := supervise(t.Context(), "api", func(ctx context.Context, _ *slog.Logger) error {
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	}, &log)
	if code != 0 {
		t.Fatalf("exit code %d, log %s", code, &log)
	}
}

func TestAFailureIsLoggedAndExitsWithOne(t *testing.T) {
	var log bytes.Buffer
	code := supervise(t.Context(), "worker", func(context.Context, *slog.Logger) error {
		return errors.New("the queue is gone")
	}, &log)
	if code != 1 {
		t.Fatalf("exit code %d", code)
	}
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	var last struct{ Level, Msg, Service, Cause string }
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
		t.Fatalf("not JSON: %v", err)
	}
	if last.Level != "ERROR" || last.Service != "worker" || last.Cause != "the queue is gone" {
		t.Fatalf("logged %+v", last)
	}
}

func TestPortIsReadFromTheEnvironment(t *testing.T) {
	for text, want := range map[string]int{"": 8000, "1": 1, "3000": 3000, "65535": 65535} {
		port, err := Port(func(string) string { return text }, 8000)
		if err != nil || port != want {
			t.Errorf("PORT=%q: %d, %v; want %d", text, port, err, want)
		}
	}
}

func TestAWrongPortIsNamedInTheError(t *testing.T) {
	for _, text := range []string{"0", "65536", "-1", "http", "80 ", "tcp://10.43.0.1:80"} {
		_, err := Port(func(string) string { return text }, 8000)
		if err == nil || !strings.Contains(err.Error(), "PORT=") {
			t.Errorf("PORT=%q: %v", text, err)
		}
	}
}
