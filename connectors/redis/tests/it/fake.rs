//! A server that answers as a test says.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

/// What it answers to a command; nothing: it closes the connection.
type Answer = Arc<Mutex<dyn FnMut(&[String]) -> Option<String> + Send>>;

/// Starts it; its address.
pub async fn server(answer: impl FnMut(&[String]) -> Option<String> + Send + 'static) -> String {
    let answer: Answer = Arc::new(Mutex::new(answer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, answer.clone()));
        }
    });
    address
}

/// Answers commands until the connection ends.
async fn serve(stream: TcpStream, answer: Answer) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let mut words = Vec::new();
        for _ in 0..line.trim()[1..].parse().unwrap() {
            line.clear();
            stream.read_line(&mut line).await?;
            let mut word = vec![0; line.trim()[1..].parse::<usize>().unwrap() + 2];
            stream.read_exact(&mut word).await?;
            word.truncate(word.len() - 2);
            words.push(String::from_utf8_lossy(&word).into_owned());
        }
        let said = answer.lock().unwrap()(&words);
        let Some(said) = said else { return Ok(()) };
        stream.write_all(said.as_bytes()).await?;
    }
}

/// What a server that is in no cluster and holds nothing answers to whoever connects.
pub fn greeting(words: &[String]) -> String {
    let said = match words[0].as_str() {
        "TYPE" => "+none\r\n",
        "SCAN" => "*2\r\n$1\r\n0\r\n*0\r\n",
        "CLUSTER" => "-ERR This instance has cluster support disabled\r\n",
        _ => "+OK\r\n",
    };
    said.to_owned()
}

/// What a node of a cluster says of its slots: up to `last` they are its own, and those behind it nobody's.
pub fn slots(port: u16, last: u16) -> String {
    format!("*1\r\n*3\r\n:0\r\n:{last}\r\n*2\r\n$9\r\n127.0.0.1\r\n:{port}\r\n")
}
