#!/bin/bash
# One node of a job: torchrun with one worker a rank. slurm.sbatch starts it once a node; without
# SLURM start it on every node yourself, within ten minutes:
#
#   NDTRAIN_HEAD=node1 NDTRAIN_NNODES=2 NDTRAIN_RANKS=32 launch/torchrun.sh CONFIG [a.b=v ...]
#
# NDTRAIN_HEAD         the node where all meet, by a name with the same IPv4 address everywhere
# NDTRAIN_NNODES       nodes; NDTRAIN_RANKS: ranks on each
# NDTRAIN_PORT         where they meet; default: 29400
# NDTRAIN_MEETING      a word that no other job uses at that port; default: ndtrain
# NDTRAIN_START        folder for process ids and the output of each rank; default: torchrun-logs
# NDTRAIN_RANK_PYTHON  the interpreter; default: python
# NDTRAIN_HARDWARE     as in `ndtrain slurm --hardware`; default: cpu
# NDTRAIN_WORK         train, or precompile: only fill the compile cache; default: train
set -euo pipefail

: "${NDTRAIN_HEAD:?names the node where all meet}" "${NDTRAIN_NNODES:?}" "${NDTRAIN_RANKS:?}"
python=${NDTRAIN_RANK_PYTHON:-python}
logs=${NDTRAIN_START:-torchrun-logs}/node_${SLURM_NODEID:-$(hostname)}
export NDTRAIN_PIDS=$logs
mkdir -p "$logs"
rm -f "$logs"/rank_*.pid

read -r address head interface signals < <("$python" -m ndtrain.cluster.node "$NDTRAIN_HEAD") || exit 2
# Without it gloo takes the address of the host's name, which may be a loopback's.
export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$interface}
# A rank has a socket for every other and a file for every tensor that it saves.
ulimit -n "$(ulimit -Hn)"

# TERM and USR1 are for the ranks, which listen to them, save and end. torchrun would answer TERM by
# killing its ranks 30 s later, and die of USR1. Before they listen, ranks ignore both as well.
trap '' TERM USR1
options=()
[ "$signals" = - ] || options+=(--signals-to-handle "$signals")

is_head=false
[ "$address" != "$head" ] || is_head=true
exec "$python" -m torch.distributed.run \
    --nnodes "$NDTRAIN_NNODES" --nproc-per-node "$NDTRAIN_RANKS" --max-restarts 0 \
    --rdzv-backend c10d --rdzv-endpoint "$head:${NDTRAIN_PORT:-29400}" \
    --rdzv-id "${NDTRAIN_MEETING:-ndtrain}" --rdzv-conf "is_host=$is_head" --local-addr "$address" \
    --log-dir "$logs" --redirects 3 --tee 0:3 "${options[@]}" \
    -m ndtrain.cluster.rank "$@"
