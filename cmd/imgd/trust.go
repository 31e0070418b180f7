package main

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"

	"github.com/imgd/imgd/publisher"
)

// systemCertificates are where the systems keep theirs in one file; those that
// Go looks into, too.
func systemCertificates() []string {
	return []string{
		"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
		"/etc/pki/tls/cacert.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
	}
}

// gitCertificates is a file with the system's certificates and those of
// git.caFile, as git takes one file for all; "" if git.caFile is not set. It is
// written anew at each start.
func gitCertificates(cfg Config, getenv func(string) string) (string, error) {
	if cfg.Git.CAFile == "" {
		return "", nil
	}
	if err := checkPEM(cfg.Git.CAFile); err != nil {
		return "", fmt.Errorf("read git.caFile: %w", err)
	}
	own, err := os.ReadFile(cfg.Git.CAFile)
	if err != nil {
		return "", fmt.Errorf("read git.caFile: %w", err)
	}
	var all []byte
	for _, file := range append([]string{getenv("GIT_SSL_CAINFO"), getenv("SSL_CERT_FILE")}, systemCertificates()...) {
		if all, err = os.ReadFile(file); err == nil {
			break
		}
	}
	path := filepath.Join(cfg.Data, "git-certificates.pem")
	if err := os.WriteFile(path+".tmp", append(append(all, '\n'), own...), 0o644); err != nil {
		return "", fmt.Errorf("write git's certificates: %w", err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return "", fmt.Errorf("write git's certificates: %w", err)
	}
	return path, nil
}

// registryCertificates are the system's certificates and those of
// registry.caFile; nil, the system's alone.
func registryCertificates(cfg Config) (*x509.CertPool, error) {
	if cfg.Registry.CAFile == "" {
		return nil, nil
	}
	pool, err := publisher.RootCAs(cfg.Registry.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read registry.caFile: %w", err)
	}
	return pool, nil
}
