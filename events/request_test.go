package events_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
)

var commit = strings.Repeat("0123456789", 4)

type decodeTest struct {
	name, subject, body string
	want                imgd.Request
	wantErr             string
}

// stored is when the stream took the message, asked the same as requests carry it.
var (
	stored = time.Date(2026, 11, 21, 10, 0, 0, 123456789, time.FixedZone("CET", 3600))
	asked  = time.Date(2026, 11, 21, 9, 0, 0, 123000000, time.UTC)
)

const subject = "imgd.requests.hello.branch"

func readable() []decodeTest {
	return []decodeTest{
		{"least", subject, `{"schema":1,"ref":"refs/heads/main"}`,
			imgd.Request{Project: "hello", Ref: "refs/heads/main", AskedAt: asked}, ""},
		{"full", "imgd.requests.hello.release",
			`{"schema":1,"ref":"refs/tags/v1","commit":"` + commit + `","by":"ann","reason":"why","force":false,"rebuild":false,"args":{"A":"b"},"target":"x","platforms":["linux/amd64"],"askedAt":"2026-11-21T08:00:00.9999Z"}`,
			imgd.Request{Project: "hello", Ref: "refs/tags/v1", Commit: commit, By: "ann", Reason: "why", Args: map[string]string{"A": "b"},
				Target: "x", Platforms: []string{"linux/amd64"}, AskedAt: time.Date(2026, 11, 21, 8, 0, 0, 999000000, time.UTC)}, ""},
		{"pull request", "imgd.requests.hello.pr", `{"schema":1,"ref":"refs/pull/7/head","base":"release/1.x"}`,
			imgd.Request{Project: "hello", Ref: "refs/pull/7/head", Base: "release/1.x", AskedAt: asked}, ""},
		{"any class", "imgd.requests.hello.whatever", `{"schema":1,"ref":"refs/heads/main"}`,
			imgd.Request{Project: "hello", Ref: "refs/heads/main", AskedAt: asked}, ""},
		{"asked at the same millisecond", subject, `{"schema":1,"ref":"refs/heads/main","askedAt":"2026-11-21T09:00:00.123999Z"}`,
			imgd.Request{Project: "hello", Ref: "refs/heads/main", AskedAt: asked}, ""},
		{"asked elsewhere", subject, `{"schema":1,"ref":"refs/heads/main","askedAt":"2026-11-21T10:00:00+01:00"}`,
			imgd.Request{Project: "hello", Ref: "refs/heads/main", AskedAt: asked.Truncate(time.Second)}, ""},
		{"force", subject, `{"schema":1,"ref":"refs/heads/main","force":true,"reason":"r"}`,
			imgd.Request{Project: "hello", Ref: "refs/heads/main", Force: true, Reason: "r", Nonce: "id", AskedAt: asked}, ""},
		{"by a clock", subject, `{"schema":1,"ref":"refs/heads/main","event":"schedule"}`,
			imgd.Request{Project: "hello", Ref: "refs/heads/main", Event: "schedule", AskedAt: asked}, ""},
		{"rebuild", subject, `{"schema":1,"ref":"refs/heads/main","rebuild":true}`,
			imgd.Request{Project: "hello", Ref: "refs/heads/main", Rebuild: true, Nonce: "id", AskedAt: asked}, ""},
	}
}

func unreadable() []decodeTest {
	return []decodeTest{
		{"asked later", subject, `{"schema":1,"ref":"refs/heads/main","askedAt":"2026-11-21T09:00:00.124Z"}`, imgd.Request{}, "later than"},
		{"asked at no time", subject, `{"schema":1,"ref":"refs/heads/main","askedAt":"yesterday"}`, imgd.Request{}, "askedAt"},
		{"force without reason", subject, `{"schema":1,"ref":"refs/heads/main","force":true,"reason":" "}`, imgd.Request{}, "reason"},
		{"unknown event", subject, `{"schema":1,"ref":"refs/heads/main","event":"push"}`, imgd.Request{}, "schedule"},
		{"base of two lines", subject, `{"schema":1,"ref":"refs/pull/7/head","base":"main\n-X"}`, imgd.Request{}, "base"},
		{"base without end", subject, `{"schema":1,"ref":"refs/pull/7/head","base":"` + strings.Repeat("x", 1025) + `"}`, imgd.Request{}, "base"},
		{"no schema", subject, `{"ref":"refs/heads/main"}`, imgd.Request{}, "schema 0"},
		{"newer schema", subject, `{"schema":2,"ref":"refs/heads/main"}`, imgd.Request{}, "schema 2"},
		{"unknown field", subject, `{"schema":1,"ref":"refs/heads/main","nonce":"x"}`, imgd.Request{}, "nonce"},
		{"no ref", subject, `{"schema":1}`, imgd.Request{}, "full"},
		{"short ref", subject, `{"schema":1,"ref":"main"}`, imgd.Request{}, "full"},
		{"ref of nothing", subject, `{"schema":1,"ref":"refs/heads/"}`, imgd.Request{}, "full"},
		{"ref without kind", subject, `{"schema":1,"ref":"refs//main"}`, imgd.Request{}, "full"},
		{"ref with a newline", subject, `{"schema":1,"ref":"refs/heads/a\nb"}`, imgd.Request{}, "character"},
		{"ref that is no text", subject, "{\"schema\":1,\"ref\":\"refs/heads/\xff\"}", imgd.Request{}, "character"},
		{"long ref", subject, `{"schema":1,"ref":"refs/heads/` + strings.Repeat("a", 2000) + `"}`, imgd.Request{}, "bytes"},
		{"short commit", subject, `{"schema":1,"ref":"refs/heads/main","commit":"0123"}`, imgd.Request{}, "commit"},
		{"commit in capitals", subject, `{"schema":1,"ref":"refs/heads/main","commit":"` + strings.Repeat("A", 40) + `"}`, imgd.Request{}, "commit"},
		{"empty", subject, ``, imgd.Request{}, "body"},
		{"compare without rebuild", subject, `{"schema":1,"ref":"refs/heads/main","compare":true}`, imgd.Request{}, "compare needs rebuild"},
		{"compare with force", subject, `{"schema":1,"ref":"refs/heads/main","compare":true,"rebuild":true,"force":true,"reason":"r"}`, imgd.Request{}, "compare needs rebuild"},
		{"no object", subject, `[]`, imgd.Request{}, "body"},
		{"null", subject, `null`, imgd.Request{}, "schema 0"},
		{"two", subject, `{"schema":1,"ref":"refs/heads/main"}{}`, imgd.Request{}, "more than one"},
		{"cut", subject, `{"schema":1,"ref":"refs/hea`, imgd.Request{}, "body"},
		{"too long", subject, `{"schema":1,"ref":"refs/heads/main","reason":"` + strings.Repeat("x", 64<<10) + `"}`, imgd.Request{}, "at most"},
		{"no class", "imgd.requests.hello", `{"schema":1,"ref":"refs/heads/main"}`, imgd.Request{}, "subject"},
		{"long subject", "imgd.requests.hello.a.b", `{"schema":1,"ref":"refs/heads/main"}`, imgd.Request{}, "subject"},
		{"other subject", "imgd.status.hello.a", `{"schema":1,"ref":"refs/heads/main"}`, imgd.Request{}, "subject"},
		{"project in capitals", "imgd.requests.Hello.branch", `{"schema":1,"ref":"refs/heads/main"}`, imgd.Request{}, "project"},
		{"project as option", "imgd.requests.-x.branch", `{"schema":1,"ref":"refs/heads/main"}`, imgd.Request{}, "project"},
		{"project with a hole", "imgd.requests.a_b.branch", `{"schema":1,"ref":"refs/heads/main"}`, imgd.Request{}, "project"},
		{"long project", "imgd.requests." + strings.Repeat("a", 64) + ".branch", `{"schema":1,"ref":"refs/heads/main"}`, imgd.Request{}, "project"},
	}
}

func TestDecode(t *testing.T) {
	for _, test := range append(readable(), unreadable()...) {
		t.Run(test.name, func(t *testing.T) {
			got, err := events.Decode(events.Message{Subject: test.subject, MsgID: "id", Seq: 7, Time: stored, Body: []byte(test.body)})
			if test.wantErr != "" {
				if !errors.Is(err, imgd.ErrInvalid) || !strings.Contains(err.Error(), test.wantErr) {
					t.Errorf("got error %v, want ErrInvalid with %q", err, test.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.ID != test.want.Hash() {
				t.Errorf("got ID %s, want %s", got.ID, test.want.Hash())
			}
			test.want.ID = got.ID
			if !equal(got, test.want) {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
}

// A forced ask is known by the nonce it comes with, else by its message's ID,
// else by its place in the stream; an ask that is not has none.
func TestDecodeNonce(t *testing.T) {
	for _, test := range []struct{ msgID, nonce, want string }{{"", "", "7"}, {"id", "", "id"}, {"id", "n", "n"}, {"", "n", "n"}} {
		m := events.Message{Subject: subject, MsgID: test.msgID, Nonce: test.nonce, Seq: 7, Time: time.Now(), Body: []byte(`{"schema":1,"ref":"refs/heads/main","rebuild":true}`)}
		req, err := events.Decode(m)
		if err != nil || req.Nonce != test.want {
			t.Errorf("%+v: got nonce %q, error %v", test, req.Nonce, err)
		}
		m.Body = []byte(`{"schema":1,"ref":"refs/heads/main"}`)
		if req, err := events.Decode(m); err != nil || req.Nonce != "" {
			t.Errorf("%+v: got nonce %q, error %v; want none", test, req.Nonce, err)
		}
	}
}

func TestDecodeRefusesHeaders(t *testing.T) {
	for _, id := range []string{strings.Repeat("x", 257), "a\nb", "a\x00", "\x7f", "é", "\xff"} {
		for _, m := range []events.Message{{MsgID: id}, {Nonce: id}, {MsgID: id, Nonce: "n"}, {MsgID: "id", Nonce: id}} {
			m.Subject, m.Time, m.Body = subject, stored, []byte(`{"schema":1,"ref":"refs/heads/main"}`)
			if _, err := events.Decode(m); !errors.Is(err, imgd.ErrInvalid) || !strings.Contains(err.Error(), "header") {
				t.Errorf("%q, %q: got error %v, want ErrInvalid", m.MsgID, m.Nonce, err)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("imgd.requests.hello.branch", "id", "", []byte(`{"schema":1,"ref":"refs/heads/main"}`))
	f.Add("imgd.requests.a.pr", "", "n", []byte(`{"schema":1,"ref":"refs/pull/1/head","commit":"`+commit+`","force":true,"reason":"r","args":{"a":"b"},"platforms":["linux/arm64"],"askedAt":"2026-11-21T10:00:00Z"}`))
	f.Add("imgd.requests..", "a\nb", "\xff", []byte(`{"schema":1}{}`))
	f.Fuzz(func(t *testing.T, subject, msgID, nonce string, body []byte) {
		req, err := events.Decode(events.Message{Subject: subject, MsgID: msgID, Nonce: nonce, Seq: 7, Time: stored, Body: body})
		if err != nil {
			if !errors.Is(err, imgd.ErrInvalid) {
				t.Errorf("error %v is not ErrInvalid", err)
			}
			return
		}
		if req.AskedAt.After(stored) || req.AskedAt != req.AskedAt.UTC().Truncate(time.Millisecond) {
			t.Errorf("asked at %s", req.AskedAt)
		}
		if req.ID != req.Hash() || len(req.ID) != 32 {
			t.Errorf("ID %q, hash %q", req.ID, req.Hash())
		}
		if !strings.HasPrefix(req.Ref, "refs/") || strings.ContainsAny(req.Ref, "\x00\n \x7f") {
			t.Errorf("ref %q", req.Ref)
		}
		if strings.ContainsAny(req.Project, ". */\\") || req.Project == "" {
			t.Errorf("project %q", req.Project)
		}
		if (req.Nonce != "") != (req.Force || req.Rebuild) || len(req.Nonce) > 256 || strings.ContainsFunc(req.Nonce, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("nonce %q, force %v, rebuild %v", req.Nonce, req.Force, req.Rebuild)
		}
	})
}
