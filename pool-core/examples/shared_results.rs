//! Large results without a copy: workers make blocks of shared memory and send them through a queue; the parent maps what it gets.
#![expect(clippy::print_stdout, reason = "an example")]

use std::time::Instant;

use pool_core::{Pool, Queue, SharedBytes};

const IMAGES: usize = 20;
const BYTES: usize = 4 << 20;

type Images = Queue<(usize, SharedBytes)>;

/// The queue keeps the block; this process may end.
fn render(images: Images, number: usize) -> anyhow::Result<()> {
    let pixels = vec![number as u8; BYTES];
    images.put((number, SharedBytes::new(&pixels)?))?;
    Ok(())
}

fn main() -> anyhow::Result<()> {
    pool_core::init(); // worker processes stay inside this call
    let pool = Pool::new(2)?;
    let images = Images::bounded(4)?; // at most four are in memory and wait for the parent
    let begun = Instant::now();
    let jobs = (0..IMAGES).map(|number| (images.clone(), number));
    let rendering = pool.task(render).chunk_size(1).starmap_async(jobs)?;
    let mut seen = [false; IMAGES];
    for _ in 0..IMAGES {
        let (number, pixels) = images.get()?;
        assert_eq!(
            (pixels.len(), pixels[0], pixels[BYTES - 1]),
            (BYTES, number as u8, number as u8)
        );
        seen[number] = true;
    }
    rendering.get()?;
    assert_eq!(seen, [true; IMAGES], "each has come once");
    println!(
        "{IMAGES} blocks of {} MiB in {:.1} ms",
        BYTES >> 20,
        begun.elapsed().as_secs_f64() * 1e3
    );
    Ok(())
}
