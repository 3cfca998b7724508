#!/usr/bin/env bash
# A one-node Slurm on this machine, for tests: no systemd, no cgroups, no accounting. Needs root on Debian or Ubuntu.
#   local_slurm.sh run COMMAND…    install what is missing, start Slurm, run the command with SLURM_CONF set, stop Slurm
#   local_slurm.sh start | stop    the two halves of it
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
STATE=${SLURM_STATE:-/var/tmp/clipmed-slurm}
PORT=${SLURM_PORT:-17817}
NODE=$(hostname -s)
MUNGE_SOCKET=$STATE/munge.socket
DAEMONS=(slurmd slurmctld munged)
export SLURM_CONF=$STATE/slurm.conf

install_packages() {
  command -v slurmctld >/dev/null && command -v munged >/dev/null && return
  [ "$(id -u)" = 0 ] || { echo "Slurm is not installed: run as root, or install slurm-wlm and munge first" >&2; exit 1; }
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
}

wait_until() { # seconds, command…
  local tries=$(($1 * 5)); shift
  for _ in $(seq "$tries"); do if "$@" >/dev/null 2>&1; then return 0; fi; sleep 0.2; done
  echo "gave up waiting for: $*; see the logs in $STATE" >&2; return 1
}

running() { [ -s "$STATE/$1.pid" ] && kill -0 "$(cat "$STATE/$1.pid")" 2>/dev/null; }
gone() { ! kill -0 "$1" 2>/dev/null; }
no_jobs() { [ -z "$(squeue --noheader)" ]; }
node_ready() { [[ $(sinfo --noheader --format=%t) =~ ^(idle|mix|alloc) ]]; }

# cred_expire is also how long a requeued job waits before it starts again; 5 seconds is the least.
write_config() {
  mkdir -p "$STATE/spool" "$STATE/save"; chmod 755 "$STATE"; chown root: "$STATE"
  if [ ! -s "$STATE/munge.key" ]; then (umask 077; head -c 1024 /dev/urandom >"$STATE/munge.key"); fi
  cat >"$SLURM_CONF" <<CONF
ClusterName=clipmed
SlurmctldHost=$NODE(127.0.0.1)
SlurmctldPort=$PORT
SlurmdPort=$((PORT + 1))
SlurmUser=root
SlurmdUser=root
AuthInfo=socket=$MUNGE_SOCKET,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,batch_sched_delay=0
SlurmdParameters=config_overrides
MpiDefault=none
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=5
StateSaveLocation=$STATE/save
SlurmdSpoolDir=$STATE/spool
SlurmctldPidFile=$STATE/slurmctld.pid
SlurmdPidFile=$STATE/slurmd.pid
SlurmctldLogFile=$STATE/slurmctld.log
SlurmdLogFile=$STATE/slurmd.log
NodeName=$NODE NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000 State=UNKNOWN
PartitionName=test Nodes=$NODE Default=YES MaxTime=INFINITE State=UP PreemptMode=OFF
PartitionName=low Nodes=$NODE MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=low_no_grace Nodes=$NODE MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes=$NODE MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
}

start() {
  install_packages
  write_config
  running munged || munged --force --socket="$MUNGE_SOCKET" --key-file="$STATE/munge.key" \
    --pid-file="$STATE/munged.pid" --log-file="$STATE/munged.log" --seed-file="$STATE/munge.seed"
  wait_until 10 munge --socket="$MUNGE_SOCKET" --no-input
  running slurmctld || slurmctld -c  # without the jobs of an earlier start
  wait_until 20 scontrol ping
  running slurmd || slurmd
  wait_until 30 node_ready
}

stop() {
  local daemon pid
  if running slurmctld && ! no_jobs; then
    scancel --quiet --user="$(id -un)"
    wait_until 20 no_jobs || true
  fi
  for daemon in "${DAEMONS[@]}"; do
    running "$daemon" || continue
    pid=$(cat "$STATE/$daemon.pid")
    kill "$pid"
    wait_until 15 gone "$pid" || kill -9 "$pid"
  done
}

case ${1:-} in
  start) start; echo "export SLURM_CONF=$SLURM_CONF" ;;
  stop) stop ;;
  run) shift; trap stop EXIT; start; PATH="$HERE/bin:$PATH" "$@" ;;
  *) sed -n '2,4p' "$0" >&2; exit 2 ;;
esac
