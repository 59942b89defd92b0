#!/usr/bin/env bash
# What a newcomer does first with an installed sparevlm, away from its source: bash tests/installed.sh VENV/bin
set -euo pipefail
bin=$(cd "$1" && pwd)
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
away=$(mktemp -d)
trap 'rm -rf "$away"' EXIT
cd "$away"

fail() {
    echo "installed.sh: $*" >&2
    exit 1
}

place=$("$bin/python" -c 'import sparevlm; print(sparevlm.__file__)')
case $place in "$top/src"*) fail "this is the source, not what was installed: $place" ;; esac
[[ $("$bin/sparevlm" --version) == "sparevlm 0."* ]] || fail "no version"
[[ $("$bin/python" -m sparevlm --version) == $("$bin/sparevlm" --version) ]] || fail "no python -m"
"$bin/sparevlm" --print-completion bash > completion && source ./completion
type _shtab_sparevlm > /dev/null || fail "no completion"
"$bin/sparevlm" methods --json | "$bin/python" -m json.tool > /dev/null || fail "no methods"
said=$("$bin/sparevlm" ask "$top/examples/pictograms.png" "how many right of the cow can be eaten ?" \
    --keep 12 --compare --json --save kept.png 2> /dev/null)
[[ $said == *'"answer": "three", "full_answer": "three"'* ]] || fail "another answer: $said"
[[ -s kept.png ]] || fail "no picture"
code=0
"$bin/sparevlm" demo > /dev/null 2> refused || code=$?
[[ $code == 2 ]] && grep -q "pip install 'sparevlm\[demo\]'" refused || fail "demo without Gradio"
echo "installed.sh: 1 passed, 0 failed"
