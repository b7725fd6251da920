//! The three requests that tests need all the time, spoken here: a tool takes a second for each, a request a few milliseconds.
//!
//! All are of versions in which lengths are not packed, and which brokers of 4.x still take.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// How long a broker may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// More than any answer to a test: a length above it is no length.
const ANSWER_BYTES_MAX: usize = 64 << 20;

const METADATA: (i16, i16) = (3, 4);
const CREATE_TOPICS: (i16, i16) = (19, 2);
const DELETE_TOPICS: (i16, i16) = (20, 1);

/// A topic to be made.
#[derive(Clone, Debug)]
pub struct NewTopic {
    pub(super) name: String,
    pub(super) partitions: i32,
    pub(super) copies: i16,
    pub(super) configs: Vec<(String, String)>,
}

impl NewTopic {
    /// With these partitions, each on as many brokers as there are, up to three.
    pub fn new(name: &str, partitions: usize) -> NewTopic {
        // No test has more partitions than an i32 counts.
        NewTopic { name: name.to_owned(), partitions: partitions as i32, copies: -1, configs: Vec::new() }
    }

    /// Each partition on so many brokers.
    pub fn copies(mut self, copies: usize) -> NewTopic {
        // At most the number of brokers.
        self.copies = copies as i16;
        self
    }

    /// With a setting of the topic: `cleanup.policy`, `compact`.
    pub fn config(mut self, name: &str, value: &str) -> NewTopic {
        self.configs.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A partition, and who leads it: -1 for nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leader {
    pub(super) partition: i32,
    pub(super) leader: i32,
    pub(super) in_sync: usize,
}

/// Makes topics; answers with the error of each that could not be made.
pub(super) fn create_topics(broker: &str, topics: &[NewTopic]) -> io::Result<Vec<(String, i16)>> {
    let mut request = Vec::new();
    length(&mut request, topics.len());
    for topic in topics {
        string(&mut request, &topic.name);
        request.extend(topic.partitions.to_be_bytes());
        // In version 2 the number of copies must be said.
        request.extend(topic.copies.to_be_bytes());
        length(&mut request, 0);
        length(&mut request, topic.configs.len());
        for (name, value) in &topic.configs {
            string(&mut request, name);
            string(&mut request, value);
        }
    }
    milliseconds(&mut request);
    request.push(0);
    let mut answer = ask(broker, CREATE_TOPICS, &request)?;
    answer.i32()?;
    let mut failed = Vec::new();
    for _ in 0..answer.i32()? {
        let (name, code) = (answer.string()?, answer.i16()?);
        answer.string()?;
        failed.extend((code != 0).then_some((name, code)));
    }
    Ok(failed)
}

/// Deletes topics; answers with the error of each that could not be deleted.
pub(super) fn delete_topics(broker: &str, topics: &[&str]) -> io::Result<Vec<(String, i16)>> {
    let mut request = Vec::new();
    length(&mut request, topics.len());
    topics.iter().for_each(|topic| string(&mut request, topic));
    milliseconds(&mut request);
    let mut answer = ask(broker, DELETE_TOPICS, &request)?;
    answer.i32()?;
    let mut failed = Vec::new();
    for _ in 0..answer.i32()? {
        let (name, code) = (answer.string()?, answer.i16()?);
        failed.extend((code != 0).then_some((name, code)));
    }
    Ok(failed)
}

/// Who leads the partitions of a topic, as one broker knows it: none for a topic that it does not know.
pub(super) fn leaders(broker: &str, topic: &str) -> io::Result<Vec<Leader>> {
    let mut request = Vec::new();
    length(&mut request, 1);
    string(&mut request, topic);
    // Asking makes no topic.
    request.push(0);
    let mut answer = ask(broker, METADATA, &request)?;
    answer.i32()?;
    for _ in 0..answer.i32()? {
        answer.i32()?;
        answer.string()?;
        answer.i32()?;
        answer.string()?;
    }
    answer.string()?;
    answer.i32()?;
    let mut leaders = Vec::new();
    for _ in 0..answer.i32()? {
        answer.i16()?;
        answer.string()?;
        answer.take(1)?;
        for _ in 0..answer.i32()? {
            answer.i16()?;
            let (partition, leader) = (answer.i32()?, answer.i32()?);
            answer.ids()?;
            leaders.push(Leader { partition, leader, in_sync: answer.ids()? });
        }
    }
    leaders.sort_by_key(|leader| leader.partition);
    Ok(leaders)
}

fn ask(broker: &str, (key, version): (i16, i16), body: &[u8]) -> io::Result<Answer> {
    let mut message = Vec::new();
    message.extend(key.to_be_bytes());
    message.extend(version.to_be_bytes());
    message.extend(0i32.to_be_bytes());
    string(&mut message, "millstream-testkit");
    message.extend(body);
    let mut request = Vec::new();
    length(&mut request, message.len());
    request.extend(message);

    let mut stream = TcpStream::connect(broker)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.write_all(&request)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > ANSWER_BYTES_MAX {
        return Err(io::Error::other(format!("{length} is no length of an answer")));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    let mut answer = Answer { bytes, at: 0 };
    // The number of the request, of which there is one.
    answer.i32()?;
    Ok(answer)
}

fn length(out: &mut Vec<u8>, length: usize) {
    // Of what a test asks for.
    out.extend((length as i32).to_be_bytes());
}

fn string(out: &mut Vec<u8>, text: &str) {
    // A name: shorter than 32 KiB.
    out.extend((text.len() as i16).to_be_bytes());
    out.extend(text.as_bytes());
}

fn milliseconds(out: &mut Vec<u8>) {
    // Below an i32.
    out.extend((ANSWER_WITHIN.as_millis() as i32).to_be_bytes());
}

struct Answer {
    bytes: Vec<u8>,
    at: usize,
}

impl Answer {
    fn take(&mut self, count: usize) -> io::Result<&[u8]> {
        let taken = self.bytes.get(self.at..self.at + count);
        self.at += count;
        taken.ok_or_else(|| io::Error::other("an answer is shorter than it says"))
    }

    fn i16(&mut self) -> io::Result<i16> {
        Ok(i16::from_be_bytes(self.take(2)?.try_into().unwrap_or_default()))
    }

    fn i32(&mut self) -> io::Result<i32> {
        Ok(i32::from_be_bytes(self.take(4)?.try_into().unwrap_or_default()))
    }

    /// A string; the one that is not there (-1) is empty.
    fn string(&mut self) -> io::Result<String> {
        let length = usize::try_from(self.i16()?).unwrap_or(0);
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    /// How many numbers there are in a list of brokers.
    fn ids(&mut self) -> io::Result<usize> {
        let count = usize::try_from(self.i32()?).unwrap_or(0);
        self.take(count * 4)?;
        Ok(count)
    }
}
