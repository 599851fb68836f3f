#!/usr/bin/env bash
# Prints what the account of 01-ha-prepare.yaml may do, as the API server of the current kubeconfig sees it; rbac.can-i.txt is
# what it printed last. Usage: config/manifests/rbac.sh [KUBECTL...] | diff config/manifests/rbac.can-i.txt -
set -euo pipefail
[ $# -gt 0 ] || set -- kubectl
export LC_ALL=C
for namespace in kubeedge kube-node-lease default; do
  echo "# namespace $namespace"
  # What every account may do (discovery, questions about itself) is left out.
  "$@" auth can-i --list --no-headers --as=system:serviceaccount:kubeedge:cloudcore --namespace "$namespace" |
    sed 's/  */ /g; s/ $//' | grep -v -e '^ \[/' -e '^selfsubject' | sort
done
