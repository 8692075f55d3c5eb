package health

import (
	"net/http/httptest"
	"testing"
)

func TestItIsHealthyUntilItDrains(t *testing.T) {
	var state State
	if got := ask(&state); got != 200 {
		t.Fatalf("before: %d", got)
	}
	state.Drain()
	if got := ask(&state); got != 503 {
		t.Fatalf("draining: %d", got)
	}
}

func ask(state *State) int {
	answer := httptest.NewRecorder()
	state.ServeHTTP(answer, httptest.NewRequest("GET", "/api/health/", nil))
	return answer.Code
}
