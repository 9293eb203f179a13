//! A name server outside of the lab's host that has one answer to everything.

use std::fs::File;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use carrack_integration::lab::{Lab, OUTSIDE_ADDRESS};

/// What every name leads to.
const ANSWER: [u8; 4] = [203, 0, 113, 9];
/// Between two looks at whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// It answers as long as this lives.
pub(crate) struct NameServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    /// One that answers on port 53 of the outside.
    pub(crate) fn outside(lab: &Lab) -> Self {
        let (netns, stop) = (lab.outside(), Arc::new(AtomicBool::new(false)));
        let (ready, is_ready) = mpsc::channel();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let netns = File::open(netns).expect("open the network namespace");
            nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).expect("enter it");
            let socket = UdpSocket::bind((OUTSIDE_ADDRESS, 53)).expect("bind the port of name servers");
            socket.set_read_timeout(Some(LOOK_EVERY)).expect("set a time limit");
            ready.send(()).expect("the test waits");
            let mut query = [0; 512];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut query) else { continue };
                if let Some(reply) = answer(&query[..length]) {
                    drop(socket.send_to(&reply, from));
                }
            }
        });
        is_ready.recv().expect("the name server is there");
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// The reply to a query of one question: an address when one is asked for, nothing else.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let mut at = 12;
    while *query.get(at)? != 0 {
        at += 1 + usize::from(query[at]);
    }
    let end = at + 5;
    let mut reply = query.get(..end)?.to_vec();
    let is_address = reply[end - 4..end] == [0, 1, 0, 1];
    reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
    if is_address {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend(ANSWER);
    }
    Some(reply)
}
