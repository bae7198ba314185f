#!/bin/sh
# Rewrites the golden files of both lines of the stock Java client, and lets each line read what our encoders wrote.
# Needs a JDK and Maven. Called by `make golden`.
set -eu
cd "$(dirname "$0")"
(cd ../../.. && RINGMQ_WRITE_GOLDEN=1 cargo test --quiet --test golden_remoting our_)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for release in 5.5.0 4.9.8; do
    mkdir -p "$work/$release/src"
    case $release in
    # These packages were in the module `common` before 5.0.
    4.*) sed -E 's/org\.apache\.rocketmq\.remoting\.protocol\.(RequestCode|header|body|heartbeat|route|subscription)\b/org.apache.rocketmq.common.protocol.\1/;
             s/org\.apache\.rocketmq\.remoting\.protocol\.admin\b/org.apache.rocketmq.common.admin/;
             s/common\.protocol\.subscription/common.subscription/' src/Capture.java >"$work/$release/src/Capture.java" ;;
    *) cp src/Capture.java "$work/$release/src/" ;;
    esac
    cp pom.xml "$work/$release/"
    (cd "$work/$release" &&
        mvn -q -B -Drocketmq.version=$release compile dependency:build-classpath -Dmdep.outputFile=classpath)
    classpath="$work/$release/target/classes:$(cat "$work/$release/classpath")"
    java -Dfile.encoding=UTF-8 -cp "$classpath" Capture write "../java-$release" $release
    java -Dfile.encoding=UTF-8 -cp "$classpath" Capture check ../ringmq
done
