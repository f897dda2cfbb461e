#!/bin/sh
# Checks what `make` cannot install itself: Python 3.11+ with venv, and Java 17 or 21.
# Prints the Python to use on stdout; each missing thing is one sentence on stderr, and the exit status is 1.
set -u
missing=0

complain() {
    echo "error: $1" >&2
    missing=1
}

on_mac() { [ "$(uname -s)" = Darwin ]; }

find_python() {
    found=""
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        found="$found $version"
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python=$candidate
            return 0
        fi
    done
    return 1
}

if find_python; then
    if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        complain "$python ($version) cannot create environments; install its venv module (Debian, Ubuntu: apt install python$version-venv)."
    fi
else
    if on_mac; then hint="brew install python@3.12"; else hint="apt install python3 python3-venv (Debian 12, Ubuntu 24.04 or newer)"; fi
    complain "Python 3.11 or newer is needed, found${found:- none}; install it with: $hint."
fi

# Spark starts JAVA_HOME's Java when it is set, else the one on the PATH.
java=java
[ -n "${JAVA_HOME:-}" ] && java=$JAVA_HOME/bin/java
line=$("$java" -version 2>&1 | grep -E ' version "' | head -n 1)
if on_mac; then hint="brew install openjdk@17, then export JAVA_HOME=\$(brew --prefix openjdk@17)"; else hint="apt install openjdk-17-jre-headless"; fi
if [ -z "$line" ]; then
    where="on the PATH"
    [ -n "${JAVA_HOME:-}" ] && where="in JAVA_HOME ($JAVA_HOME)"
    complain "Java 17 or 21 is needed, found none $where; install it with: $hint."
else
    number=$(echo "$line" | sed -E 's/.* version "([^"]*)".*/\1/')
    major=$(echo "$number" | sed -E 's/^1\.//; s/[^0-9].*//')
    # Java 24 removed the security manager that Hadoop's login still calls.
    if [ "${major:-0}" -lt 17 ]; then
        complain "Java 17 or 21 is needed, found $number, which is too old; install it with: $hint."
    elif [ "$major" -ge 24 ]; then
        complain "Java 17 or 21 is needed, found $number, which Spark does not support yet; install it with: $hint."
    fi
fi

[ "$missing" -eq 0 ] || exit 1
echo "$python"
