// Package knockregistrar tells a knock-exporter which bulk operations a program starts with Knock's Go SDK.
//
//	registrar := knockregistrar.New(knockregistrar.Options{
//		URL: "http://127.0.0.1:10187", Environment: "production", TokenFile: "/run/secrets/knock-exporter-token",
//	})
//	defer registrar.Close()
//	client := knock.NewClient(option.WithMiddleware(registrar.Middleware))
//
// Goroutines register the operations, so the program never waits and never fails because of the exporter. Problems are
// logged. Needs Go 1.21 and nothing but its standard library.
package knockregistrar

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

var pauses = []time.Duration{0, 1e9, 2e9, 4e9, 8e9, 15e9} // nanoseconds before each attempt

const mostWaiting = 1000

// Options say where the exporter is, and what every operation is registered with: Group and Run may be empty.
type Options struct {
	URL, Environment, TokenFile string
	Group, Run                  string
}

// RunOptions describe a run of a group. ID is the time in UTC if it is empty. Operations is left out if it is 0,
// Deadline ("3h", or an RFC 3339 time) if it is empty.
type RunOptions struct {
	Group, ID, Deadline string
	Operations          int
}

type record struct {
	ID         string  `json:"id"`
	Name       string  `json:"name"`
	Status     string  `json:"status"`
	InsertedAt *string `json:"inserted_at"`
	Group      string  `json:"group,omitempty"`
	Run        string  `json:"run,omitempty"`
}

type runChange struct {
	Operations int    `json:"operations,omitempty"`
	Deadline   string `json:"deadline,omitempty"`
	Closed     bool   `json:"closed,omitempty"`
}

// Registrar registers operations. It has one run at a time, in all goroutines.
type Registrar struct {
	options    Options
	client     *http.Client
	slots      chan struct{}
	waiting    sync.WaitGroup
	current    sync.Mutex // guards group and run
	group, run string
}

// New makes a registrar.
func New(options Options) *Registrar {
	return &Registrar{
		options: options,
		client: &http.Client{
			Timeout:       10 * time.Second,
			Transport:     &http.Transport{}, // no proxy
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		slots: make(chan struct{}, mostWaiting),
		group: options.Group,
		run:   options.Run,
	}
}

// Middleware is for option.WithMiddleware of the SDK. The SDK gets its response unchanged.
func (r *Registrar) Middleware(request *http.Request, next func(*http.Request) (*http.Response, error)) (*http.Response, error) {
	group, run := r.labels()
	response, err := next(request)
	if err != nil || response.StatusCode != http.StatusOK || request.Method != http.MethodPost || !strings.Contains(request.URL.Path, "/bulk/") {
		return response, err
	}
	body, _ := io.ReadAll(response.Body) // what fails here fails for the SDK too: it reads on where this ended
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), response.Body), response.Body}
	var found record
	if json.Unmarshal(body, &found) == nil && found.ID != "" && found.Status != "" {
		found.Group, found.Run = group, run
		r.sendLater("POST", "operations/"+r.options.Environment, found.ID, found)
	}
	return response, nil
}

// InRun opens a run and calls work with its id. What work starts belongs to the run. The run is closed at the end, unless
// work returns an error or panics.
func (r *Registrar) InRun(options RunOptions, work func(run string) error) error {
	if options.ID == "" {
		options.ID = time.Now().UTC().Format("20060102T150405Z")
	}
	group := strings.ReplaceAll(url.PathEscape(options.Group), "%2F", "/")
	path := "groups/" + r.options.Environment + "/" + group + "/runs/" + options.ID
	r.sendLater("PUT", path, path, runChange{Operations: options.Operations, Deadline: options.Deadline})
	group, run := r.labels()
	r.setLabels(options.Group, options.ID)
	defer r.setLabels(group, run)
	if err := work(options.ID); err != nil {
		return err
	}
	r.sendLater("PUT", path, path, runChange{Closed: true})
	return nil
}

// Close waits two seconds at most for what is under way.
func (r *Registrar) Close() {
	done := make(chan struct{})
	go func() { r.waiting.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
	}
}

func (r *Registrar) labels() (string, string) {
	r.current.Lock()
	defer r.current.Unlock()
	return r.group, r.run
}

func (r *Registrar) setLabels(group, run string) {
	r.current.Lock()
	defer r.current.Unlock()
	r.group, r.run = group, run
}

func (r *Registrar) sendLater(method, path, what string, document any) {
	select {
	case r.slots <- struct{}{}:
		r.waiting.Add(1)
		go func() {
			defer func() { <-r.slots; r.waiting.Done() }()
			r.handOver(method, path, what, document)
		}()
	default:
		log.Printf("knockregistrar: %s was not registered: too many are waiting", what)
	}
}

func (r *Registrar) handOver(method, path, what string, document any) {
	var problem string
	for _, pause := range pauses {
		time.Sleep(pause)
		status, text, err := r.attempt(method, path, document)
		if status == http.StatusOK {
			return
		}
		problem = fmt.Sprintf("HTTP %d %s", status, text)
		if err != nil {
			problem = err.Error()
		} else if status < 500 && status != http.StatusTooManyRequests {
			break
		}
	}
	log.Printf("knockregistrar: %s was not registered: %s", what, problem)
}

func (r *Registrar) attempt(method, path string, document any) (int, string, error) {
	token, err := os.ReadFile(r.options.TokenFile) // each time, so that tokens can be renewed
	if err != nil {
		return 0, "", err
	}
	body, err := json.Marshal(document)
	if err != nil {
		return 0, "", err
	}
	request, err := http.NewRequest(method, r.options.URL+"/api/v1/"+path, bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	request.Header.Set("Content-Type", "application/json")
	answer, err := r.client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 500))
	return answer.StatusCode, string(text), err
}
