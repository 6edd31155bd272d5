# shellcheck shell=bash
# A runner of named stages: each is timed, one that fails doesn't hide the others, a table tells at the end.
# Sourced after lib.sh.

stage_names=() stage_times=() stage_results=()

run_stage() { # NAME COMMAND…
    local name=$1 begin=$SECONDS result=ok
    shift
    stage "$name" "…"
    (set -eEuo pipefail; "$@") || result=FAILED
    stage_names+=("$name") stage_times+=("$((SECONDS - begin))") stage_results+=("$result")
    stage "$name" "$result"
    [[ $result == ok ]]
}

skip_stage() { # NAME WHY
    stage_names+=("$1") stage_times+=(0) stage_results+=("skipped: $2")
}

stage_table() { # fails if a stage did
    local i failed=0
    printf '\n%-28s %8s  %s\n' STAGE SECONDS RESULT
    for i in "${!stage_names[@]}"; do
        printf '%-28s %8s  %s\n' "${stage_names[i]}" "${stage_times[i]}" "${stage_results[i]}"
        [[ ${stage_results[i]} != FAILED ]] || failed=1
    done
    printf '%-28s %8s\n' all "$SECONDS"
    return "$failed"
}
