#!/usr/bin/env bash
set -euo pipefail
stage="$1"
cat > "result-$stage.txt" <<END
stage $stage
status ok
END
