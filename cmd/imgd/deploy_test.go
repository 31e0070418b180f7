package main

import (
	"path/filepath"
	"testing"
)

// What deploy/ gives imgd as its config is one, and names parts outside.
func TestDeployedConfigs(t *testing.T) {
	for _, name := range []string{"compose/imgd.yaml", "kubernetes/config/imgd.yaml"} {
		cfg, err := loadConfig(flagValues{config: filepath.Join("../../deploy", name)}, func(string) string { return "" })
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if cfg.NATS.URL == "" || cfg.Registry.Address == "" || cfg.BuildKit.Address == "" || len(cfg.Projects) != 1 || cfg.Data != "/var/lib/imgd" {
			t.Errorf("%s: got %+v", name, cfg)
		}
	}
}
