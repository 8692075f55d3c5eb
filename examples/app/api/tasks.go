package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

const maxTitle = 200 // characters

var errFull = errors.New("there is no room for another task")

type task struct {
	ID    int    `json:"id"`
	Title string `json:"title"`
}

// tasks are kept in memory: each replica has its own, and they go when it does.
type tasks struct {
	mutex sync.Mutex
	most  int
	items []task
}

func newTasks(most int) *tasks { return &tasks{most: most, items: []task{}} }

// all tasks, oldest first; never nil, so that JSON shows [].
func (t *tasks) all() []task {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	return slices.Clone(t.items)
}

// add returns errFull when there is no room, and another error when the title is not one.
func (t *tasks) add(title string) (task, error) {
	title = strings.TrimSpace(title)
	if length := utf8.RuneCountInString(title); length == 0 || length > maxTitle {
		return task{}, fmt.Errorf("title must have 1 to %d characters", maxTitle)
	}
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if len(t.items) >= t.most {
		return task{}, errFull
	}
	made := task{ID: len(t.items) + 1, Title: title}
	t.items = append(t.items, made)
	return made, nil
}
