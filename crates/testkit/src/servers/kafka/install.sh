# Fetches what Kafka needs into a folder, once: `sh install.sh FOLDER`. Whoever comes second waits for the first, and finds all done.
#
#   libs/                  the jars of a broker and its tools
#   bootstrap.checkpoint   what a formatted storage holds beside its ids: feature levels, and users with SCRAM
#   server.jsa, tools.jsa  archives of loaded classes, which halve the start of a broker and of a tool
#   done                   all of that is there, of this edition
#
# Prints nothing but why it failed. What it starts, it has ended when it ends.
set -eu

# 4.4.0 lacks an artifact.
VERSION=4.3.1
LOG4J_VERSION=2.25.4
PLUGIN=org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies
# Changes with what is made below, so that folders with something older are filled anew.
EDITION="$VERSION 1"
# As in `mod.rs`.
SCRAM_USER='[name=bob,password=bob-secret]'

fail() {
    echo "$1" >&2
    exit 1
}

command -v java >/dev/null || fail '`java` is not installed (package default-jre-headless)'
mkdir -p "$1"
cd "$1"
is_done() { [ -e done ] && [ "$(cat done)" = "$EDITION" ]; }
is_done && exit 0
exec 9>lock
flock 9
is_done && exit 0
command -v mvn >/dev/null || fail '`mvn` is not installed (package maven)'

broker=
# Runs of java must not hold the lock.
java() { command java "$@" 9>&-; }
trap '[ -z "$broker" ] || kill -s KILL "$broker" 2>/dev/null || true' EXIT
trap 'exit 1' HUP INT TERM

cat >pom.xml <<X
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>millstream</groupId>
  <artifactId>testkit-kafka</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$VERSION</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$VERSION</version></dependency>
    <!-- Without it nothing is logged, and so nobody knows when the broker is ready. -->
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>$LOG4J_VERSION</version></dependency>
  </dependencies>
</project>
X
rm -rf libs ./*.jsa train done
fetch() {
    mvn -B -ntp -q -f pom.xml "$PLUGIN" -DincludeScope=runtime -DoutputDirectory="$PWD/libs" >fetch.log 2>&1 9>&-
}
# A registry may be busy for a moment.
fetch || { sleep 5 && fetch; } || fail "cannot fetch Kafka's jars with \`mvn\`: $(grep -m 1 ERROR fetch.log || tail -n 1 fetch.log)"

# A broker for the archives: any free ports, for a few seconds.
mkdir train
cat >train/log4j2.properties <<X
status=error
appender.c.type=Console
appender.c.name=C
appender.c.layout.type=PatternLayout
appender.c.layout.pattern=[%d] %p %m (%c{1})%n
rootLogger.level=INFO
rootLogger.appenderRef.c.ref=C
X
port=$((30000 + $$ % 2000))
cat >train/server.properties <<X
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((port + 1))
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$port,SASL://127.0.0.1:$((port + 2)),CONTROLLER://127.0.0.1:$((port + 1))
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_a="a";
listener.name.sasl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
log.dirs=$PWD/train/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=16777216
X
# The flags of the collector and the classpath belong to an archive: the same as in `node.rs`.
flags='-Xmx256m -XX:+UseSerialGC -Dlog4j2.configurationFile=train/log4j2.properties'
java $flags -cp "$PWD/libs/*" kafka.tools.StorageTool format -t MkU3OEVBNTcwNTJENDM2Qk -c train/server.properties \
    --add-scram "SCRAM-SHA-256=$SCRAM_USER" --add-scram "SCRAM-SHA-512=$SCRAM_USER" >train/format.log 2>&1 ||
    fail "cannot format a storage: $(tail -n 1 train/format.log)"
cp train/data/bootstrap.checkpoint .
command java $flags -XX:ArchiveClassesAtExit="$PWD/server.jsa" -cp "$PWD/libs/*" kafka.Kafka train/server.properties \
    >train/server.log 2>&1 9>&- &
broker=$!
waited=0
until grep -q 'Kafka Server started' train/server.log; do
    waited=$((waited + 1))
    kill -s 0 "$broker" 2>/dev/null && [ "$waited" -lt 900 ] || fail "a broker does not start: $(tail -n 1 train/server.log)"
    sleep 0.1
done
tool() {
    java $flags "$@" --bootstrap-server "127.0.0.1:$port" >>train/tool.log 2>&1
}
tool -cp "$PWD/libs/*" org.apache.kafka.tools.TopicCommand --create --topic t --partitions 1 ||
    fail "cannot make a topic: $(tail -n 1 train/tool.log)"
tool -XX:ArchiveClassesAtExit="$PWD/tools.jsa" -cp "$PWD/libs/*" \
    org.apache.kafka.tools.consumer.group.ConsumerGroupCommand --list || true
kill -s TERM "$broker"
wait "$broker" || true
broker=
rm -rf train
echo "$EDITION" >done
