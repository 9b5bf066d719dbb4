package endpoint

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/nex-crm/relay/internal/webhook"
)

// NewRoute is how an endpoint is reached: by way of a proxy, with a client certificate (PEM), both or neither (nil). Its
// errors are [*FieldError] and hold no part of the key or of the proxy's credentials.
func NewRoute(proxy string, certPEM, keyPEM []byte) (*webhook.Route, error) {
	var route webhook.Route
	var errs []error
	var err error
	if proxy != "" {
		if route.Proxy, err = webhook.ValidateProxy(proxy); err != nil {
			errs = append(errs, &FieldError{"proxy", err.Error()})
		}
	}
	switch {
	case len(certPEM) == 0 && len(keyPEM) == 0:
	case len(certPEM) == 0 || len(keyPEM) == 0:
		errs = append(errs, &FieldError{"client_cert", "and client_key are needed together"})
	default:
		if route.ClientCert, err = webhook.ParseClientCert(certPEM, keyPEM); err != nil {
			errs = append(errs, &FieldError{"client_cert", err.Error()})
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if route.Proxy == nil && route.ClientCert == nil {
		return nil, nil
	}
	return &route, nil
}

// sealedRoute is a route as it stands in the sealed part of a record.
type sealedRoute struct {
	Proxy string `json:"proxy,omitempty"`
	Cert  string `json:"client_cert,omitempty"` // PEM
	Key   string `json:"client_key,omitempty"`  // PEM, PKCS #8
}

func sealRoute(r *webhook.Route) (*sealedRoute, error) {
	if r == nil {
		return nil, nil
	}
	var out sealedRoute
	if r.Proxy != nil {
		out.Proxy = r.Proxy.String()
	}
	if r.ClientCert != nil {
		var cert bytes.Buffer
		for _, der := range r.ClientCert.Certificate {
			if err := pem.Encode(&cert, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
				return nil, err
			}
		}
		der, err := x509.MarshalPKCS8PrivateKey(r.ClientCert.PrivateKey)
		if err != nil {
			return nil, errors.New("client key cannot be encoded")
		}
		out.Cert = cert.String()
		out.Key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	return &out, nil
}

func (r *sealedRoute) open() (*webhook.Route, error) {
	if r == nil {
		return nil, nil
	}
	route, err := NewRoute(r.Proxy, []byte(r.Cert), []byte(r.Key))
	if err != nil {
		return nil, fmt.Errorf("route: %w", err)
	}
	return route, nil
}
