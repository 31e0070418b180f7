// Package webhook turns a forge's signed webhook into requests.
package webhook
