// Package config is the configuration: plain structs, their defaults in one function, and a loader that reports every
// problem at once. It knows the form of each value; what a value means is judged by the part that uses it.
package config

import (
	"fmt"
	"strings"
	"time"
)

// Config is the whole configuration. Field names in the file are the koanf tags.
type Config struct {
	Nex        Nex         `koanf:"nex"`
	Workspaces []Workspace `koanf:"workspaces"`
	NATS       NATS        `koanf:"nats"`
	Stream     Stream      `koanf:"stream"`
	Webhooks   Webhooks    `koanf:"webhooks"`
	Endpoints  []Endpoint  `koanf:"endpoints"`
	HTTP       HTTP        `koanf:"http"`
	Tokens     []Token     `koanf:"tokens"`
	Log        Log         `koanf:"log"`

	files []string
	empty bool
}

// Nex says where the insights come from and how patient the relay is with it.
type Nex struct {
	BaseURL           string        `koanf:"base_url"`
	MaxEventSize      ByteSize      `koanf:"max_event_size"`
	IdleTimeout       time.Duration `koanf:"idle_timeout"`
	ConnectTimeout    time.Duration `koanf:"connect_timeout"`
	UnauthorizedRetry time.Duration `koanf:"unauthorized_retry"`
	ReconnectMin      time.Duration `koanf:"reconnect_min"`
	ReconnectMax      time.Duration `koanf:"reconnect_max"`
	IdentityWindow    time.Duration `koanf:"identity_window"`
	Backfill          time.Duration `koanf:"backfill"`
	GapCheckInterval  time.Duration `koanf:"gap_check_interval"`
	GapOverlap        time.Duration `koanf:"gap_overlap"`
}

// Workspace is one Nex workspace: one API key, one stream.
type Workspace struct {
	Name       string `koanf:"name"`
	APIKey     Secret `koanf:"api_key"`
	APIKeyEnv  string `koanf:"api_key_env"`
	APIKeyFile string `koanf:"api_key_file"`
}

// NATS is where the log is.
type NATS struct {
	URL               string   `koanf:"url"`
	CredentialsFile   string   `koanf:"credentials_file"`
	User              string   `koanf:"user"`
	Password          Secret   `koanf:"password"`
	PasswordEnv       string   `koanf:"password_env"`
	PasswordFile      string   `koanf:"password_file"`
	Token             Secret   `koanf:"token"`
	TokenEnv          string   `koanf:"token_env"`
	TokenFile         string   `koanf:"token_file"`
	TLS               TLS      `koanf:"tls"`
	Replicas          int      `koanf:"replicas"`
	PublishMaxPending int      `koanf:"publish_max_pending"`
	Embedded          Embedded `koanf:"embedded"`
}

// TLS names PEM files for the connection to an external NATS.
type TLS struct {
	CAFile   string `koanf:"ca_file"`
	CertFile string `koanf:"cert_file"`
	KeyFile  string `koanf:"key_file"`
}

// Embedded is the nats-server inside, used when nats.url is empty.
type Embedded struct {
	Listen    string `koanf:"listen"`
	StoreDir  string `koanf:"store_dir"`
	Sync      string `koanf:"sync"`
	Token     Secret `koanf:"token"`
	TokenEnv  string `koanf:"token_env"`
	TokenFile string `koanf:"token_file"`
}

// SyncAlways is the value of nats.embedded.sync that makes every write durable before its PubAck.
const SyncAlways = "always"

// SyncInterval is Sync as a duration, 0 for [SyncAlways].
func (e *Embedded) SyncInterval() time.Duration {
	d, _ := ParseDuration(e.Sync) // judged by Load
	return d
}

// Stream holds the limits of the log.
type Stream struct {
	MaxAge          time.Duration `koanf:"max_age"`
	MaxBytes        ByteSize      `koanf:"max_bytes"`
	DuplicateWindow time.Duration `koanf:"duplicate_window"`
}

// Webhooks holds what is the same for all endpoints.
type Webhooks struct {
	Timeout           time.Duration   `koanf:"timeout"`
	Schedule          []time.Duration `koanf:"schedule"`
	Jitter            float64         `koanf:"jitter"`
	MaxInFlight       int             `koanf:"max_in_flight"`
	RetryAfterMax     time.Duration   `koanf:"retry_after_max"`
	AllowHTTP         bool            `koanf:"allow_http"`
	AllowNetworks     []string        `koanf:"allow_networks"`
	EncryptionKey     Secret          `koanf:"encryption_key"`
	EncryptionKeyEnv  string          `koanf:"encryption_key_env"`
	EncryptionKeyFile string          `koanf:"encryption_key_file"`
	// PreviousEncryptionKey opens what an earlier key has sealed.
	PreviousEncryptionKey     Secret        `koanf:"previous_encryption_key"`
	PreviousEncryptionKeyEnv  string        `koanf:"previous_encryption_key_env"`
	PreviousEncryptionKeyFile string        `koanf:"previous_encryption_key_file"`
	DisableAfter              time.Duration `koanf:"disable_after"`
	LossWarning               time.Duration `koanf:"loss_warning"`
	SecretOverlap             time.Duration `koanf:"secret_overlap"`
	CAFile                    string        `koanf:"ca_file"`
	AllowProxies              []string      `koanf:"allow_proxies"`
	Origin                    string        `koanf:"origin"`
}

// Endpoint is one subscriber's webhook. Zero Timeout and MaxInFlight mean the ones of [Webhooks].
type Endpoint struct {
	ID                 string            `koanf:"id"`
	URL                string            `koanf:"url"`
	Description        string            `koanf:"description"`
	Events             []string          `koanf:"events"`
	Workspaces         []string          `koanf:"workspaces"`
	Secret             Secret            `koanf:"secret"`
	SecretEnv          string            `koanf:"secret_env"`
	SecretFile         string            `koanf:"secret_file"`
	PreviousSecret     Secret            `koanf:"previous_secret"`
	PreviousSecretEnv  string            `koanf:"previous_secret_env"`
	PreviousSecretFile string            `koanf:"previous_secret_file"`
	SigningKey         Secret            `koanf:"signing_key"`
	SigningKeyEnv      string            `koanf:"signing_key_env"`
	SigningKeyFile     string            `koanf:"signing_key_file"`
	EventsToken        Secret            `koanf:"events_token"`
	EventsTokenEnv     string            `koanf:"events_token_env"`
	EventsTokenFile    string            `koanf:"events_token_file"`
	Filter             string            `koanf:"filter"`
	RateLimit          string            `koanf:"rate_limit"` // judged by endpoint.ParseRate
	Ordered            bool              `koanf:"ordered"`
	Resume             string            `koanf:"resume"`
	Timeout            time.Duration     `koanf:"timeout"`
	MaxInFlight        int               `koanf:"max_in_flight"`
	Headers            map[string]string `koanf:"headers"`
	Handshake          bool              `koanf:"handshake"`
	Shape              string            `koanf:"shape"`
	Template           string            `koanf:"template"`
	TemplateFile       string            `koanf:"template_file"`
	ContentType        string            `koanf:"content_type"`
	Gzip               bool              `koanf:"gzip"`
	Proxy              Secret            `koanf:"proxy"`
	ProxyEnv           string            `koanf:"proxy_env"`
	ProxyFile          string            `koanf:"proxy_file"`
	ClientCertFile     string            `koanf:"client_cert_file"`
	ClientKeyFile      string            `koanf:"client_key_file"`
	Enabled            *bool             `koanf:"enabled"` // nil = true
}

// Token lets a caller into the API beside http.admin_token.
type Token struct {
	Name       string   `koanf:"name"`
	Token      Secret   `koanf:"token"`
	TokenEnv   string   `koanf:"token_env"`
	TokenFile  string   `koanf:"token_file"`
	Access     string   `koanf:"access"`
	Workspaces []string `koanf:"workspaces"`
}

// The values of tokens[].access.
const (
	AccessRead  = "read"
	AccessWrite = "write"
)

// HTTP is the relay's own listener.
type HTTP struct {
	Listen         string `koanf:"listen"`
	AdminToken     Secret `koanf:"admin_token"`
	AdminTokenEnv  string `koanf:"admin_token_env"`
	AdminTokenFile string `koanf:"admin_token_file"`
}

// Log is what the relay tells its operator.
type Log struct {
	Level  string `koanf:"level"`
	Format string `koanf:"format"`
}

// Default is the configuration of an empty file. It is the only place with defaults; config.example.yaml repeats them.
func Default() Config {
	return Config{
		Nex: Nex{
			BaseURL:           "https://app.nex.ai/api/developers",
			MaxEventSize:      4 * MiB,
			IdleTimeout:       75 * time.Second,
			ConnectTimeout:    15 * time.Second,
			UnauthorizedRetry: 5 * time.Minute,
			ReconnectMin:      time.Second,
			ReconnectMax:      time.Minute,
			IdentityWindow:    10 * time.Minute,
			GapCheckInterval:  5 * time.Minute,
			GapOverlap:        10 * time.Minute,
		},
		NATS: NATS{
			Replicas:          1,
			PublishMaxPending: 1024,
			Embedded:          Embedded{Listen: "127.0.0.1:4222", StoreDir: "./data/nats", Sync: "1s"},
		},
		Stream: Stream{MaxAge: 168 * time.Hour, MaxBytes: 10 * GiB, DuplicateWindow: 2 * time.Hour},
		Webhooks: Webhooks{
			Timeout: 15 * time.Second,
			Schedule: []time.Duration{0, 5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour,
				10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour},
			Jitter:        0.1,
			MaxInFlight:   32,
			RetryAfterMax: time.Hour,
			DisableAfter:  5 * 24 * time.Hour,
			LossWarning:   24 * time.Hour,
			SecretOverlap: 24 * time.Hour,
			Origin:        "nex-relay",
		},
		HTTP: HTTP{Listen: "127.0.0.1:8080"},
		Log:  Log{Level: "info", Format: "text"},
	}
}

// Files are the configuration file and every file it refers to: what a change must be looked for in.
func (c *Config) Files() []string { return c.files }

// FromEmptyFile tells that there is a configuration file and it says nothing: it holds white space and comments at most. That is
// valid, and also what a file looks like that is being written.
func (c *Config) FromEmptyFile() bool { return c.empty }

// Problem is one fault of the configuration.
type Problem struct {
	Key     string // e.g. webhooks.schedule[2]; empty for the file as a whole
	Message string // the value's fault and the remedy; never a secret's value
}

func (p Problem) String() string {
	if p.Key == "" {
		return p.Message
	}
	return p.Key + ": " + p.Message
}

// Problems is every fault found.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = one.String()
	}
	return strings.Join(lines, "\n")
}

// Addf adds a problem.
func (p *Problems) Addf(key, format string, args ...any) {
	*p = append(*p, Problem{Key: key, Message: fmt.Sprintf(format, args...)})
}

// Err is nil if there is no problem.
func (p Problems) Err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}
