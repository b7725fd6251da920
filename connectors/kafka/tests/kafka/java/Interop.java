import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** Writes and reads with Kafka's own client. Arguments: brokers, `write` or `read`, topic, and for `write` a file of keys as hex. */
public class Interop {
    static final long TIME = 1_700_000_000_000L;

    public static void main(String[] args) throws Exception {
        if (args[1].equals("write")) {
            write(args[0], args[2], Files.readAllLines(Path.of(args[3])));
        } else {
            read(args[0], args[2]);
        }
    }

    /** Record n: the n-th key, the number as value (none for each seventh), a time, and headers that repeat and are null. */
    static void write(String brokers, String topic, List<String> keys) throws Exception {
        Properties config = new Properties();
        config.putAll(Map.of("bootstrap.servers", brokers, "acks", "all", "linger.ms", "5"));
        Future<?> last = null;
        try (var producer = new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer())) {
            for (int n = 0; n < keys.size(); n++) {
                byte[] key = HexFormat.of().parseHex(keys.get(n));
                byte[] value = n % 7 == 6 ? null : Integer.toString(n).getBytes(StandardCharsets.UTF_8);
                var record = new ProducerRecord<>(topic, null, TIME + n, key, value);
                record.headers().add("n", Integer.toString(n).getBytes(StandardCharsets.UTF_8));
                record.headers().add("n", new byte[] {(byte) 0xff, 0});
                record.headers().add("none", null);
                last = producer.send(record);
            }
            last.get();
        }
    }

    /** One line for each record: partition, time, key, value and headers, bytes as hex and `-` for null. */
    static void read(String brokers, String topic) {
        Properties config = new Properties();
        config.putAll(Map.of("bootstrap.servers", brokers, "isolation.level", "read_committed"));
        StringBuilder out = new StringBuilder();
        try (var consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            List<TopicPartition> partitions = consumer.partitionsFor(topic).stream()
                .map(info -> new TopicPartition(topic, info.partition())).toList();
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            while (partitions.stream().anyMatch(partition -> consumer.position(partition) < ends.get(partition))) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(500))) {
                    out.append(record.partition()).append('|').append(record.timestamp()).append('|');
                    out.append(hex(record.key())).append('|').append(hex(record.value())).append('|');
                    for (Header header : record.headers()) {
                        out.append(header.key()).append('=').append(hex(header.value())).append(',');
                    }
                    out.append('\n');
                }
            }
        }
        System.out.print(out);
    }

    static String hex(byte[] bytes) {
        return bytes == null ? "-" : HexFormat.of().formatHex(bytes);
    }
}
