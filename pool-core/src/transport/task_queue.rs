//! Parent → worker: messages of tasks, in order, by two ways. Small ones go by a [lane](super::lane) in shared memory, which costs neither side a system call
//! while the worker is awake. Others go by the [channel](super::tasks), and a record in the lane says where in the order they belong. A worker
//! that has nothing to do looks at the lane for a moment, then sleeps on the channel; an empty message on it is the lane's bell.

use std::collections::VecDeque;
use std::time::Duration;

use super::agreement::Need;
use super::lane::{Lane, LaneReader, LaneWriter};
use super::tasks::{TaskReceiver, TaskSender, Unsent};
use crate::limits::SPIN_NS;
use crate::spin::Spin;
use crate::wire::to_worker::{self, ToWorker};

/// What the lane keeps free for records that point to the channel: far more than there are messages on it.
const SPARE: u64 = 64;

/// The parent's end.
#[derive(Debug)]
pub(crate) struct TaskQueueWriter {
    sender: TaskSender,
    /// `None`: all goes by the channel.
    lane: Option<LaneWriter>,
}

impl TaskQueueWriter {
    pub(crate) fn new(sender: TaskSender, lane: Option<Lane>) -> TaskQueueWriter {
        TaskQueueWriter { sender, lane: lane.map(LaneWriter::new) }
    }

    /// Sends one message. Bounded: see [`TaskSender::send`].
    pub(crate) fn send(&mut self, message: &[u8]) -> Result<(), Unsent> {
        let Some(lane) = &mut self.lane else { return self.sender.send(message) };
        if lane.publish(message, SPARE) {
            return if lane.is_bell_wanted(Need::Later) { self.sender.send(&[]) } else { Ok(()) };
        }
        let mut pointer = Vec::with_capacity(1);
        to_worker::push(&ToWorker::Elsewhere, &mut pointer);
        if !lane.publish(&pointer, 0) {
            return Err(Unsent::Stuck);
        }
        self.sender.send(message)
    }
}

/// The worker's end.
#[derive(Debug)]
pub(crate) struct TaskQueueReader {
    receiver: TaskReceiver,
    lane: Option<LaneReader>,
    /// Messages of the channel to which the lane has not come yet.
    early: VecDeque<Vec<u8>>,
    spin: Spin,
    /// What comes next takes longer than it is worth to look for it.
    takes_longer: bool,
}

impl TaskQueueReader {
    pub(crate) fn new(receiver: TaskReceiver, lane: Option<Lane>) -> TaskQueueReader {
        let (lane, early) = (lane.map(LaneReader::new), VecDeque::new());
        let spin = Spin::new(Duration::from_nanos(SPIN_NS));
        TaskQueueReader { receiver, lane, early, spin, takes_longer: false }
    }

    /// Whether there is something to do without waiting for it. (Of the channel this is not known.)
    pub(crate) fn has_more(&self) -> bool {
        self.lane.as_ref().is_some_and(LaneReader::has_news)
    }

    /// The parent has to be woken first before it sends the next records.
    pub(crate) fn expect_a_wait(&mut self) {
        self.takes_longer = true;
    }

    /// Looks for the next records for a moment, and puts them in the place of what `buffer` holds. `false`: there are none in the lane.
    pub(crate) fn look(&mut self, buffer: &mut Vec<u8>) -> bool {
        let Some(lane) = &mut self.lane else { return false };
        let takes_longer = std::mem::take(&mut self.takes_longer);
        if !lane.has_news() && !takes_longer && self.spin.is_worth_it() {
            self.spin.until(|| lane.has_news().then_some(()));
        }
        // only another program could write a position that is refused
        lane.copy_out(buffer) == Ok(true)
    }

    /// Waits for the next records, asleep, and puts them in the place of what `buffer` holds. `false`: the parent is gone.
    pub(crate) fn receive(&mut self, buffer: &mut Vec<u8>) -> bool {
        loop {
            let Some(lane) = &mut self.lane else {
                return self.receiver.receive().map(|message| *buffer = message).is_some();
            };
            let may_sleep = lane.listen(Need::Now);
            if (may_sleep || lane.stop_listening()) && !self.sleep() {
                return false;
            }
            let Some(lane) = &mut self.lane else { return false };
            lane.stop_listening();
            match lane.copy_out(buffer) {
                Ok(true) => return true,
                Ok(false) => {}
                Err(_) => return false,
            }
        }
    }

    /// Waits for a message on the channel. A bell that has been rung is always taken, so that they can't pile up.
    fn sleep(&mut self) -> bool {
        match self.receiver.receive() {
            None => false,
            Some(bell) if bell.is_empty() => true,
            Some(message) => {
                self.early.push_back(message);
                true
            }
        }
    }

    /// The message of the channel to which the lane has come; `None`: the parent is gone.
    pub(crate) fn elsewhere(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(message) = self.early.pop_front() {
                return Some(message);
            }
            if !self.sleep() {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::block::WorkerBlock;
    use crate::transport::tasks;

    fn pair() -> (TaskQueueWriter, TaskQueueReader) {
        let (block, _fd) = WorkerBlock::create().unwrap();
        let (sender, theirs) = tasks::channel().unwrap();
        let receiver = TaskReceiver::adopt(tasks::SpareReceiver::new().unwrap(), &theirs).unwrap();
        let writer = TaskQueueWriter::new(sender, Some(block.tasks()));
        (writer, TaskQueueReader::new(receiver, Some(block.tasks())))
    }

    /// The inputs of the next tasks, wherever they lie.
    fn next(reader: &mut TaskQueueReader, inputs: &mut Vec<Vec<u8>>) -> bool {
        let mut buffer = Vec::new();
        if !reader.look(&mut buffer) && !reader.receive(&mut buffer) {
            return false;
        }
        for record in to_worker::Records(&buffer) {
            match record {
                ToWorker::Elsewhere => {
                    let Some(message) = reader.elsewhere() else { return false };
                    inputs.extend(to_worker::Records(&message).filter_map(input));
                }
                other => inputs.extend(input(other)),
            }
        }
        true
    }

    fn input(record: ToWorker<'_>) -> Option<Vec<u8>> {
        match record {
            ToWorker::Initialize { input, .. } => Some(input.to_vec()),
            _ => None,
        }
    }

    fn message(input: &[u8]) -> Vec<u8> {
        let callee = crate::task::callee::Callee::BY_NAME;
        let mut bytes = Vec::new();
        to_worker::push(&ToWorker::Initialize { callee, input }, &mut bytes);
        bytes
    }

    #[test]
    fn messages_keep_their_order_on_both_ways() {
        let (mut writer, mut reader) = pair();
        let sizes = [3, 110_000, 5, 1, 80_000, 80_000, 70_000, 30_000];
        for (number, size) in sizes.iter().enumerate() {
            writer.send(&message(&vec![number as u8; *size])).unwrap();
        }
        let mut inputs = Vec::new();
        while inputs.len() < sizes.len() {
            assert!(next(&mut reader, &mut inputs));
        }
        let got: Vec<(u8, usize)> = inputs.iter().map(|input| (input[0], input.len())).collect();
        assert!(got.iter().enumerate().all(|(number, &got)| got == (number as u8, sizes[number])));
        drop(writer);
        assert!(!next(&mut reader, &mut inputs), "the parent is gone");
    }

    #[test]
    fn a_sleeper_is_woken_by_either_way() {
        let (mut writer, mut reader) = pair();
        let worker = std::thread::spawn(move || {
            let mut inputs = Vec::new();
            while next(&mut reader, &mut inputs) {}
            inputs
        });
        let asleep = |writer: &TaskQueueWriter| {
            let lane = writer.lane.as_ref().unwrap();
            while !lane.is_listened_to() {
                std::thread::yield_now();
            }
        };
        for round in 0..50u8 {
            asleep(&writer);
            let size = if round % 3 == 0 { 120_000 } else { 10 };
            writer.send(&message(&vec![round; size])).unwrap();
        }
        drop(writer);
        let inputs = worker.join().unwrap();
        assert!(inputs.iter().map(|input| input[0]).eq(0..50));
    }

    #[test]
    fn a_worker_that_takes_nothing_is_told_as_stuck() {
        let (mut writer, _reader) = pair();
        let outcome = (0..100_000).find_map(|_| writer.send(&message(&[1; 6000])).err());
        assert_eq!(outcome, Some(Unsent::Stuck));
    }
}
