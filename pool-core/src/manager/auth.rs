//! The handshake: each side proves that it knows the key before anything else is said. The key itself never travels here.
//!
//! Client and server exchange nonces; then the client sends a keyed hash of both, and the server, if it is right, another one. The two are made with
//! different labels, so neither can be sent back to the other side. Hashes are compared in constant time.

use std::io;
use std::time::{Duration, Instant};

use super::address::Stream;

/// What a process of a client calls itself: all its connections are one client.
pub(super) type ClientId = [u8; 16];

/// With the version of the protocol.
const MAGIC: &[u8; 16] = b"pool-manager/2\r\n";

const NONCE: usize = 32;

/// What both sides must know. Not shown by `Debug`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(pub(super) [u8; 32]);

impl Key {
    pub(super) fn of(secret: &[u8]) -> Key {
        Key(blake3::derive_key("pool-core manager 2026 authentication key", secret))
    }

    pub(super) fn random() -> io::Result<Key> {
        Ok(Key(random()?))
    }

    pub(super) fn sign(&self, label: &str, parts: &[&[u8]]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in [label.as_bytes()].iter().chain(parts) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize()
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Refusal {
    WrongKey,
    /// The other side is no manager, or no client of one.
    Stranger,
    Io(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal::Io(error)
    }
}

/// What a server says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// Differs from server to server, also at the same address.
    pub(super) instance: u64,
    pub(super) image: [u64; 4],
}

/// What a client says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) id: ClientId,
    pub(super) image: [u64; 4],
}

fn image_bytes(image: &[u64; 4]) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (to, word) in bytes.chunks_exact_mut(8).zip(image) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn image_of(bytes: &[u8; 32]) -> [u64; 4] {
    let mut image = [0; 4];
    for (to, from) in image.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *to = u64::from_le_bytes(*from);
    }
    image
}

/// The client's part.
pub(super) fn greet(
    stream: &Stream,
    key: &Key,
    me: &Client,
    limit: Duration,
) -> Result<Identity, Refusal> {
    let deadline = Instant::now() + limit;
    let mine: [u8; NONCE] = random()?;
    send(stream, &[MAGIC, &mine])?;
    if receive::<16>(stream, deadline)? != *MAGIC {
        return Err(Refusal::Stranger);
    }
    let theirs: [u8; NONCE] = receive(stream, deadline)?;
    let image = image_bytes(&me.image);
    let proof = key.sign("client", &[&mine, &theirs, &me.id, &image]);
    send(stream, &[&me.id, &image, proof.as_bytes()])?;
    if receive::<1>(stream, deadline)? != [1] {
        return Err(Refusal::WrongKey);
    }
    let instance: [u8; 8] = receive(stream, deadline)?;
    let image: [u8; 32] = receive(stream, deadline)?;
    let proof = blake3::Hash::from_bytes(receive(stream, deadline)?);
    if proof != key.sign("server", &[&mine, &theirs, &instance, &image]) {
        return Err(Refusal::WrongKey);
    }
    Ok(Identity { instance: u64::from_le_bytes(instance), image: image_of(&image) })
}

/// The server's part.
pub(super) fn admit(
    stream: &Stream,
    key: &Key,
    me: &Identity,
    limit: Duration,
) -> Result<Client, Refusal> {
    let deadline = Instant::now() + limit;
    if receive::<16>(stream, deadline)? != *MAGIC {
        return Err(Refusal::Stranger);
    }
    let theirs: [u8; NONCE] = receive(stream, deadline)?;
    let mine: [u8; NONCE] = random()?;
    send(stream, &[MAGIC, &mine])?;
    let id: ClientId = receive(stream, deadline)?;
    let image: [u8; 32] = receive(stream, deadline)?;
    let proof = blake3::Hash::from_bytes(receive(stream, deadline)?);
    if proof != key.sign("client", &[&theirs, &mine, &id, &image]) {
        send(stream, &[&[0]])?;
        return Err(Refusal::WrongKey);
    }
    let instance = me.instance.to_le_bytes();
    let own = image_bytes(&me.image);
    let proof = key.sign("server", &[&theirs, &mine, &instance, &own]);
    send(stream, &[&[1], &instance, &own, proof.as_bytes()])?;
    Ok(Client { id, image: image_of(&image) })
}

/// So little that it never blocks.
fn send(stream: &Stream, parts: &[&[u8]]) -> io::Result<()> {
    let bytes = parts.concat();
    let sent = stream.write(&bytes)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// The time limit holds for all parts together: a peer that sends a byte now and then gains nothing.
fn receive<const N: usize>(stream: &Stream, deadline: Instant) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut have = 0;
    while have < N {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_timeouts(Some(left))?;
        match stream.read(&mut bytes[have..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(got) => have += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}
