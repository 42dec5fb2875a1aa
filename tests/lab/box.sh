#!/bin/bash
# A device made of a folder: an overlay with private writes on a size-limited tmpfs, in namespaces of its own (mount, pid, uts, ipc).
# Runs CMD in it as its first process, in the foreground; TERM ends it. All of it is gone when the first process ends: mounts live in the
# private mount namespace, processes in the pid namespace. Root. It separates tests, it is no security border.
#
#   tests/lab/box.sh FOLDER CMD...     FOLDER: shared with the host at the same path; FOLDER/box is where the pieces are mounted
#
# Environment:
#   LOWER   root folder to start from: / is this system
#   DISK    size of everything the device may write (256m)          NAME    host name
#   MEMORY  limit, e.g. 256M: beyond it the kernel kills            CPUS    limit, e.g. 0.5        (cgroup v1 or v2)
#   NETWORK path of a network namespace to live in                  FAKE    tree laid over the root; its sys/ is bound over /sys, live
#   BIND    folders, one a line, shared at the same path            CPUINFO file shown as /proc/cpuinfo
#   BINFMT  registration of an emulator for foreign programs, valid in here only (a user namespace of its own; Linux 6.7)
set -euo pipefail

inside() {
  local up=$WORK/up m=$WORK/root b
  mount -t tmpfs -o "size=${DISK:-256m},mode=755" tmpfs "$up"
  mkdir "$up/upper" "$up/work"
  # into the upper layer: a second lower layer inside / is refused (ELOOP)
  [ -z "${FAKE:-}" ] || tar -C "$FAKE" --exclude=./sys --exclude=./proc -cf - . | tar -C "$up/upper" --no-same-owner -xf -
  mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$up/upper,workdir=$up/work${BINFMT:+,userxattr}" "$m"
  mount -t proc proc "$m/proc"
  if [ -n "${BINFMT:-}" ]; then
    mount -t binfmt_misc binfmt_misc "$m/proc/sys/fs/binfmt_misc"
    printf '%s' "$BINFMT" > "$m/proc/sys/fs/binfmt_misc/register"
  fi
  mount -t tmpfs -o mode=755 tmpfs "$m/run"; mkdir -p "$m/run/sshd" "$m/home/dev"
  small_dev "$m/dev"
  if [ -n "${FAKE:-}" ] && [ -d "$FAKE/sys" ]; then mount --bind "$FAKE/sys" "$m/sys"
  elif [ "$LOWER" = / ]; then mount --rbind /sys "$m/sys"; fi
  [ -z "${CPUINFO:-}" ] || mount --bind "$CPUINFO" "$m/proc/cpuinfo"
  while IFS= read -r b; do
    [ -z "$b" ] || { mkdir -p "$m$b"; mount --bind "$b" "$m$b"; }
  done <<< "$FOLDER"$'\n'"${BIND:-}"
  hostname "${NAME:-edge-box}"
  exec env -i PATH="$PATH" ${QEMU_CPU:+"QEMU_CPU=$QEMU_CPU"} HOME=/home/dev chroot "$m" "$@" < /dev/null
}

small_dev() {
  mount -t tmpfs -o mode=755,nosuid tmpfs "$1"
  mkdir "$1/pts" "$1/shm"
  for d in null zero full random urandom tty; do touch "$1/$d"; mount --bind "/dev/$d" "$1/$d"; done
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$1/pts"; ln -s pts/ptmx "$1/ptmx"
  mount -t tmpfs -o size=64m tmpfs "$1/shm"; ln -s /proc/self/fd "$1/fd"
}

groups=()                                   # cgroup folders made
limit() {                                   # limit FOLDER FILE VALUE
  local group=$1/edge-lab-$$
  [ -d "$group" ] || { mkdir "$group"; groups+=("$group"); }
  echo "$3" > "$group/$2"
}
set_limits() {
  local c=/sys/fs/cgroup quota g
  for g in $c/edge-lab-* $c/*/edge-lab-*; do rmdir "$g" 2>/dev/null || true; done   # empty ones of a killed supervisor
  quota=$(awk -v cpus="${CPUS:-1}" 'BEGIN{printf "%d", cpus*100000}')
  if [ -f $c/cgroup.controllers ]; then
    for g in memory cpu; do echo "+$g" > $c/cgroup.subtree_control 2>/dev/null || true; done
    [ -z "${MEMORY:-}" ] || limit $c memory.max "$MEMORY"
    [ -z "${CPUS:-}" ]   || limit $c cpu.max "$quota 100000"
  else
    [ -z "${MEMORY:-}" ] || limit $c/memory memory.limit_in_bytes "$MEMORY"
    [ -z "${CPUS:-}" ]   || { limit $c/cpu cpu.cfs_period_us 100000; limit $c/cpu cpu.cfs_quota_us "$quota"; }
  fi
}

child=
clean_up() {
  trap '' TERM INT HUP
  local first g
  if [ -n "$child" ]; then                  # the end of the first process takes all others with it, and is waited for by unshare
    first=$(cat "/proc/$child/task/$child/children" 2>/dev/null || true)
    kill -KILL ${first:-"$child"} 2>/dev/null || true
    wait "$child" 2>/dev/null || true
  fi
  for g in ${groups[@]+"${groups[@]}"}; do for _ in {1..50}; do rmdir "$g" 2>/dev/null && break; sleep 0.05; done; done
}

if [ "${1:-}" = --inside ]; then
  # who was nobody yet lost its rights when it was executed: once more, as root; with them comes the loss of --kill-child, set again
  if [ -n "${BINFMT:-}" ] && [ -z "${MAPPED:-}" ]; then
    until [ "$(id -u)" = 0 ]; do sleep 0.01; done
    MAPPED=1 exec setpriv --pdeathsig KILL -- "$0" "$@"
  fi
  shift; inside "$@"
fi

FOLDER=$1; shift
export FOLDER WORK=$FOLDER/box
mkdir -p "$WORK/up" "$WORK/root"
enter=(); [ -z "${NETWORK:-}" ] || enter=(nsenter "--net=$NETWORK")
user=();  [ -z "${BINFMT:-}" ] || user=(--user)
trap 'exit 143' TERM; trap 'exit 130' INT; trap 'exit 129' HUP; trap clean_up EXIT
[ -z "${MEMORY:-}${CPUS:-}" ] || set_limits
(
  for g in ${groups[@]+"${groups[@]}"}; do echo "$BASHPID" > "$g/cgroup.procs"; done
  exec setpriv --pdeathsig KILL ${enter[@]+"${enter[@]}"} unshare ${user[@]+"${user[@]}"} --mount --uts --ipc --pid --fork \
    --kill-child --propagation private "$0" --inside "$@"
) < /dev/null &
child=$!
if [ -n "${BINFMT:-}" ]; then               # every user inside is the same one outside; refused until the child has its own user namespace
  for _ in {1..500}; do
    ! { echo '0 0 4294967295' > "/proc/$child/gid_map"; } 2>/dev/null || break
    sleep 0.01
  done
  echo '0 0 4294967295' > "/proc/$child/uid_map"
fi
status=0; wait "$child" || status=$?
child=
exit "$status"
