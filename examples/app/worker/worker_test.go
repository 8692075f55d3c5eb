package main

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestItTellsWhichSettingsItHas(t *testing.T) {
	environment := map[string]string{"REDIS_URL": "redis://:canary@redis:6379/0", "DB_HOST": ""}
	lookup := func(name string) (string, bool) {
		value, found := environment[name]
		return value, found
	}
	set, missing := present(lookup, []string{"REDIS_URL", "DB_HOST", "DB_PORT"})
	if !slices.Equal(set, []string{"REDIS_URL"}) || !slices.Equal(missing, []string{"DB_HOST", "DB_PORT"}) {
		t.Fatalf("set %v, missing %v", set, missing)
	}
}

func TestItBeatsAtOnceAndAtEachTickUntilItIsToldToStop(t *testing.T) {
	var log bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	ticks, ended := make(chan time.Time), make(chan struct{})
	go func() {
		beat(ctx, ticks, slog.New(slog.NewJSONHandler(&log, nil)))
		close(ended)
	}()
	ticks <- time.Time{}
	ticks <- time.Time{} // taken only when the beat before was written
	cancel()
	<-ended
	if beats := strings.Count(log.String(), `"heartbeat"`); beats != 3 {
		t.Fatalf("%d heartbeats: %s", beats, &log)
	}
}
