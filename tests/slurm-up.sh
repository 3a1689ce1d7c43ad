#!/usr/bin/env bash
# A real Slurm of several nodes on this one machine, made for tests and thrown away after them.
#
#   tests/slurm-up.sh install          fetch the packages (root; Debian or Ubuntu)
#   eval "$(tests/slurm-up.sh up)"     start a cluster; sets SLURM_CONF, by which sbatch and the others find it
#   tests/slurm-up.sh down             end its jobs and daemons, remove its folder
#
# A cluster is a folder (CLUSTER_DIR): configuration, keys, sockets, logs and process ids. Nothing outside it is touched and no
# service of the system is used, so several stand side by side, as root or not (then only that user can run jobs).
#
# CLUSTER_DIR       where it lives; short, since unix sockets must stay below 108 characters
# CLUSTER_NODES     number of nodes, named n1, n2, …: one slurmd each
# CLUSTER_CPUS, CLUSTER_MEMORY, CLUSTER_GPUS   of each node: booked, never enforced; memory in MB
# CLUSTER_ACCOUNTS  1: slurmdbd on a MariaDB of its own, so that sacct works and accounts are checked (only `known` is there)
# CLUSTER_BLIND     a folder that the last node cannot see: it has an empty disk of its own there (root)
# CLUSTER_HOSTNAME  the host name that nodes claim to have, in place of this machine's
# CLUSTER_EXTRA     further lines of slurm.conf
set -euo pipefail
umask 022

dir=${CLUSTER_DIR:-/tmp/cluster-$UID}
nodes=${CLUSTER_NODES:-2}
cpus=${CLUSTER_CPUS:-4}
memory=${CLUSTER_MEMORY:-8000}
gpus=${CLUSTER_GPUS:-0}
accounts=${CLUSTER_ACCOUNTS:-0}
blind=${CLUSTER_BLIND:-}
extra=${CLUSTER_EXTRA:-}
here=$(uname -n)
hostname=${CLUSTER_HOSTNAME:-${here%%.*}}
me=$(id -un)

PATH=$PATH:/usr/sbin:/sbin
# What a job or another cluster has set must not reach this one.
for name in $(compgen -v | grep -E '^(SLURM|SBATCH|SRUN)_' || true); do unset "$name"; done
export SLURM_CONF=$dir/slurm.conf

note() { printf 'slurm-up: %s\n' "$*" >&2; }
fail() {
  note "$@"
  exit 1
}

install_packages() {
  local wanted=(slurmctld slurmd slurm-client munge)
  if [ "$accounts" = 1 ]; then wanted+=(slurmdbd slurm-wlm-mysql-plugin mariadb-server-core mariadb-client-core); fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}"
}

# The first of $1 neighbouring ports on which nobody answers; below the range that the kernel hands out by itself.
find_ports() {
  local first port tries
  for tries in {1..40}; do
    first=$((RANDOM % 9000 + 21000 + tries))
    port=$first
    while [ "$port" -lt $((first + $1)) ] && ! (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
    if [ "$port" -eq $((first + $1)) ]; then
      echo "$first"
      return
    fi
  done
  fail "found no free ports"
}

# Daemons listen everywhere unless told not to, and then on what the machine's own name stands for. Only where that is exactly
# 127.0.0.1 can it be used: on 127.0.1.1 srun would wait for ever for an answer that comes from 127.0.0.1.
loopback_only() { [ "$(getent ahostsv4 "$here" | awk '{print $1; exit}')" = 127.0.0.1 ]; }

# slurmd loads a cgroup plugin even where nothing uses one, and in containers it would fail. From 24.05 on it can be switched off;
# earlier the plugin of version 1 does nothing unless it is asked.
cgroup_plugin() {
  local version
  version=$(slurmctld -V | tr -dc '0-9. ' | awk '{split($1, v, "."); print v[1] * 100 + v[2]}')
  if [ "$version" -ge 2405 ]; then echo disabled; else echo cgroup/v1; fi
}

write_configuration() {
  local port n listen='' gres='' address=127.0.0.1
  port=$(find_ports $((nodes + 2)))
  if loopback_only; then listen=CommunicationParameters=NoInAddrAny,NoCtldInAddrAny; fi
  echo "CgroupPlugin=$(cgroup_plugin)" >"$dir/cgroup.conf"
  if [ "$gpus" -gt 0 ]; then
    # Slurm wants character devices whose names end in a number.
    for ((n = 0; n < gpus; n++)); do ln -s /dev/null "$dir/gpu$n"; done
    echo "Name=gpu File=$dir/gpu[0-$((gpus - 1))]" >"$dir/gres.conf"
    gres=Gres=gpu:$gpus
  fi
  cat >"$SLURM_CONF" <<CONF
ClusterName=tests
SlurmctldHost=${here%%.*}($address)
SlurmctldPort=$port
SlurmUser=$me
SlurmdUser=$me
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
SlurmctldPidFile=$dir/pids/slurmctld
SlurmdPidFile=$dir/pids/slurmd-%n
SlurmctldLogFile=$dir/logs/slurmctld
SlurmdLogFile=$dir/logs/slurmd-%n
AuthType=auth/munge
# A requeued job waits for as long as a credential lasts: 120 s by default, 5 s at least.
AuthInfo=socket=$dir/munge.socket,cred_expire=5
$listen
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
PropagateResourceLimits=NONE
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# A job that asks for no memory would take a whole node.
DefMemPerCPU=100
# Nodes have what is written here, whatever the machine has; a lost node may come back.
SlurmdParameters=config_overrides
ReturnToService=2
# What can never run is refused at once.
EnforcePartLimits=ALL
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
KillWait=2
# scontrol and squeue tell of ended jobs for an hour, "sacct -c" for ever.
MinJobAge=3600
JobCompType=jobcomp/filetxt
JobCompLoc=$dir/logs/completed
CONF
  if [ -n "$gres" ]; then echo GresTypes=gpu >>"$SLURM_CONF"; fi
  if [ "$accounts" = 1 ]; then write_accounting $((port + nodes + 1)); fi
  for ((n = 1; n <= nodes; n++)); do
    echo "NodeName=n$n NodeHostname=$hostname NodeAddr=$address Port=$((port + n)) CPUs=$cpus RealMemory=$memory $gres"
  done >>"$SLURM_CONF"
  echo "PartitionName=main Nodes=ALL Default=YES DefaultTime=10 MaxTime=INFINITE State=UP" >>"$SLURM_CONF"
  if [ -n "$extra" ]; then echo "$extra" >>"$SLURM_CONF"; fi
}

write_accounting() {
  cat >>"$SLURM_CONF" <<CONF
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$1
AccountingStoragePass=$dir/munge.socket
AccountingStorageEnforce=associations
CONF
  (
    umask 077
    cat >"$dir/slurmdbd.conf" <<CONF
DbdHost=${here%%.*}
DbdAddr=127.0.0.1
DbdPort=$1
SlurmUser=$me
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=accounts
PidFile=$dir/pids/slurmdbd
LogFile=$dir/logs/slurmdbd
CONF
    if loopback_only; then echo CommunicationParameters=NoInAddrAny >>"$dir/slurmdbd.conf"; fi
  )
}

# until_true SECONDS COMMAND…: repeat a command until it succeeds.
until_true() {
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    if [ "$SECONDS" -ge "$end" ]; then return 1; fi
    sleep 0.1
  done
}

start_accounting() {
  export MYSQL_UNIX_PORT=$dir/mariadb.socket
  mariadb-install-db --no-defaults --datadir="$dir/database" --auth-root-authentication-method=normal --skip-test-db \
    --user="$me" >"$dir/logs/mariadb" 2>&1
  setsid mariadbd --no-defaults --datadir="$dir/database" --socket="$MYSQL_UNIX_PORT" --skip-networking --user="$me" \
    --pid-file="$dir/pids/mariadbd" </dev/null >>"$dir/logs/mariadb" 2>&1 &
  until_true 30 mariadb --no-defaults -u root -e 'select 1' || return 1
  slurmdbd || return 1
  until_true 15 sacctmgr -Q -i add cluster tests || return 1
  sacctmgr -Q -i add account known Cluster=tests >/dev/null && sacctmgr -Q -i add user "$me" Account=known >/dev/null
}

start_node() { # the last node can be given an empty disk of its own in the place of a folder
  if [ -n "$blind" ] && [ "$1" = "$nodes" ]; then
    unshare --mount sh -c "mount -t tmpfs blind \"\$1\" && exec slurmd -N n$1" sh "$blind"
  else
    slurmd -N "n$1"
  fi
}

all_idle() { [ "$(timeout 5 sinfo -h -N -p main -t idle -o %N | sort -u | wc -l)" = "$nodes" ]; }

start_daemons() {
  local n
  mungekey --create --keyfile="$dir/munge.key" || return 1
  munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --seed-file="$dir/munge.seed" \
    --pid-file="$dir/pids/munged" --log-file="$dir/logs/munged" || return 1
  if [ "$accounts" = 1 ]; then start_accounting || return 1; fi
  slurmctld || return 1
  for ((n = 1; n <= nodes; n++)); do start_node "$n" || return 1; done
  until_true 30 all_idle
}

up() {
  local program n
  for program in slurmctld slurmd sbatch munged mungekey; do
    command -v "$program" >/dev/null || fail "there is no $program here; as root: $0 install"
  done
  case $dir in /*) ;; *) fail "CLUSTER_DIR must begin with a slash: $dir" ;; esac
  if [ ${#dir} -gt 60 ]; then fail "CLUSTER_DIR is too long for unix sockets: $dir"; fi
  mkdir "$dir" || fail "is a cluster up already? $0 down"
  mkdir "$dir/state" "$dir/pids" "$dir/logs"
  for ((n = 1; n <= nodes; n++)); do mkdir "$dir/spool-n$n"; done
  write_configuration
  if ! start_daemons >/dev/null; then
    tail -n 15 "$dir"/logs/* >&2 || true
    down
    fail "the cluster did not come up"
  fi
  echo "export SLURM_CONF=$SLURM_CONF"
}

# Where nobody reaps them ended daemons stay as zombies, to which signals can still be sent: ask for the state instead.
lives() { grep -qsE '^State:[[:space:]]+[^ZX[:space:]]' "/proc/$1/status"; }
gone() { ! lives "$1"; }

stop_daemons() { # names of files in pids/
  local file pid
  for file; do
    if ! pid=$(cat "$file" 2>/dev/null) || ! lives "$pid"; then continue; fi
    case $(cat "/proc/$pid/comm") in slurm* | munged | mariadbd) ;; *) continue ;; esac
    kill "$pid"
    until_true 10 gone "$pid" || kill -9 "$pid"
  done
}

no_jobs() { [ -z "$(timeout 5 squeue -h)" ]; }

down() {
  if [ ! -d "$dir" ]; then return; fi
  # Jobs outlive slurmd, so they go first.
  if timeout 5 squeue -h -o %A >"$dir/jobs" 2>/dev/null; then
    sort -u "$dir/jobs" | xargs -r timeout 10 scancel || true
    until_true 15 no_jobs || true
  fi
  stop_daemons "$dir"/pids/slurmd-* "$dir/pids/slurmctld" "$dir/pids/slurmdbd" "$dir/pids/mariadbd" "$dir/pids/munged"
  rm -rf "$dir"
}

case ${1:-} in
  install) install_packages ;;
  up) up ;;
  down) down ;;
  *)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
    ;;
esac
