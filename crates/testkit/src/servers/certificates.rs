//! Throw-away certificates: an authority, a server and a client.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// PEM files for TLS on 127.0.0.1. Who trusts `authority` trusts both others, and nobody else does.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority that has signed both.
    pub authority: PathBuf,
    /// The server's, for `localhost` and 127.0.0.1.
    pub server: PathBuf,
    /// The server's private key (PKCS#8).
    pub server_key: PathBuf,
    /// The client's, with the name `client`.
    pub client: PathBuf,
    /// The client's private key (PKCS#8).
    pub client_key: PathBuf,
}

/// What a certificate is for, and from when on nobody should believe it.
const EXTENSIONS: &str = "extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=";

impl Certificates {
    /// Makes them in a folder, for a server at `localhost` and 127.0.0.1.
    pub fn make(folder: &Path) -> Certificates {
        Certificates::make_for(folder, "DNS:localhost,IP:127.0.0.1")
    }

    /// Makes them for a server at other names, say `DNS:elsewhere.example`.
    pub fn make_for(folder: &Path, server_names: &str) -> Certificates {
        let make = Make { folder };
        make.openssl(
            "req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 30 -subj /CN=millstream-test-authority \
             -keyout authority.key -out authority.pem",
        );
        let (server, server_key) = make.signed("server", server_names);
        let (client, client_key) = make.signed("client", "DNS:client");
        Certificates { authority: folder.join("authority.pem"), server, server_key, client, client_key }
    }
}

struct Make<'a> {
    folder: &'a Path,
}

impl Make<'_> {
    fn signed(&self, name: &str, alternatives: &str) -> (PathBuf, PathBuf) {
        let extensions = self.folder.join(format!("{name}.extensions"));
        if let Err(error) = fs::write(&extensions, format!("{EXTENSIONS}{alternatives}\n")) {
            panic!("cannot write `{}`: {error}", extensions.display());
        }
        self.openssl(&format!(
            "req -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -subj /CN={name} -keyout {name}.key -out {name}.request"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.request -CA authority.pem -CAkey authority.key -CAcreateserial -days 30 -extfile {name}.extensions \
             -out {name}.pem"
        ));
        (self.folder.join(format!("{name}.pem")), self.folder.join(format!("{name}.key")))
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl").args(arguments.split_whitespace()).current_dir(self.folder).output();
        match output {
            Ok(output) if output.status.success() => (),
            Ok(output) => panic!("`openssl {arguments}` failed: {}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => panic!("cannot start `openssl`: {error}"),
        }
    }
}
