# Sourced by demo, test and bench: prepares the machine, builds the programs, defines the command e2e.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."
export PATH=$HOME/.cargo/bin:$PATH
# Tells the processes of this call from those of another one on the machine.
export KUBEEDGE_E2E_RUN=${KUBEEDGE_E2E_RUN:-$$-$RANDOM}
environment=$("$here/setup")
eval "$environment"

# The examples are what some scenarios put between a device and the edge.
packages=(-p e2e -p virtual-device -p modbus-mapper)
# Our programs are needed unless both sides are somebody else's. What a caller has built is not looked at again: another build that
# goes on (of programs for boards) would have to end first.
programs() {
  [ -z "${KUBEEDGE_E2E_BUILT:-}" ] || return 0
  cargo build --quiet --locked "${packages[@]}" || return
  # Last: where there are builds of both kinds, e2e takes the newer.
  if [ -z "${KE_CLOUD:-}" ] || [ -z "${KE_EDGE:-}" ]; then "$here/build" --quiet || return; fi
  export KUBEEDGE_E2E_BUILT=1
}
e2e() {
  case " $* " in
    *' --help '* | *' -h '* | *' --down '*) [ -n "${KUBEEDGE_E2E_BUILT:-}" ] || cargo build --quiet --locked -p e2e ;;
    *) programs ;;
  esac
  "${CARGO_TARGET_DIR:-target}/debug/e2e" "$@"
}
