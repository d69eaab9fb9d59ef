printf '%s\n' "$@" > arguments.txt
