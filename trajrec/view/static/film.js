// The pictures of an environment's observations, played by the cursor of the list of steps.

const SPEEDS = [1, 2, 5, 10, 15, 25, 50];
const KEPT = 6;

export function openFilm(episode) {
  const section = document.getElementById("film");
  const [width, height, size] = ["width", "height", "chunk"].map((name) => Number(section.dataset[name]));
  const first = Number(document.getElementById("timeline").dataset.first);
  const picture = section.querySelector("img");
  const canvas = document.createElement("canvas");
  const chunks = new Map();
  const button = document.getElementById("play");
  let speed = 4;
  let timer = null;
  let shown = null;
  let due = 0;

  canvas.width = width;
  canvas.height = height;
  canvas.setAttribute("role", "img");
  const context = canvas.getContext("2d");

  // Each frame is what changed since the one before: as words of 32 bits, which is four times faster.
  async function load(number) {
    const answer = await fetch(`/e/${episode.data.id}/film/${number}`);
    if (!answer.ok) throw new Error(String(answer.status));
    const stream = answer.body.pipeThrough(new DecompressionStream("deflate"));
    const words = new Uint32Array(await new Response(stream).arrayBuffer());
    const length = width * height;
    for (let at = length; at < words.length; at++) words[at] ^= words[at - length];
    return words;
  }

  function chunk(number) {
    if (!chunks.has(number)) {
      const words = load(number);
      chunks.set(number, words);
      words.catch(() => chunks.delete(number));
      if (chunks.size > KEPT) chunks.delete(chunks.keys().next().value);
    }
    return chunks.get(number);
  }

  async function show(step) {
    if (shown === step) return;
    shown = step;
    const number = Math.floor((step - first) / size);
    const place = (step - first) % size;
    let words;
    try {
      words = await chunk(number);
      if (words.length < (place + 1) * width * height) {
        // The episode has grown since.
        chunks.delete(number);
        words = await chunk(number);
      }
    } catch {
      words = new Uint32Array(0);
    }
    if (shown !== step) return;
    const frame = words.subarray(place * width * height, (place + 1) * width * height);
    const words32 = new ImageData(width, height);
    new Uint32Array(words32.data.buffer).set(frame);
    context.putImageData(words32, 0, 0);
    const has = frame.some((word) => word !== 0);
    canvas.setAttribute("aria-label", has ? `observed after step ${step}` : `no picture after step ${step}`);
    document.getElementById("frame-step").textContent = has ? `after step ${step}` : `after step ${step}: no picture`;
    if (!picture.hidden) {
      picture.hidden = true;
      picture.after(canvas);
    }
    // The next one, before it is asked for.
    if (place > size / 2 && episode.numbers().at(-1) - first >= (number + 1) * size) chunk(number + 1).catch(() => {});
  }

  async function tick() {
    const numbers = episode.numbers();
    const next = numbers[numbers.indexOf(episode.wanted()) + 1];
    if (next === undefined) {
      stop();
      // The list has a part of a long episode: the page of the next part plays on.
      const later = document.querySelector("#steps a.later");
      if (later) {
        sessionStorage.setItem("plays", speed);
        location.href = later.href;
      }
      return;
    }
    episode.glide(next);
    await show(next);
    if (timer === null) return;
    due = Math.max(due + 1000 / SPEEDS[speed], performance.now() - 100);
    timer = setTimeout(tick, Math.max(0, due - performance.now()));
  }

  function stop() {
    if (timer === null) return;
    clearTimeout(timer);
    timer = null;
    tell();
    episode.settle();
  }

  function toggle() {
    if (timer !== null) return stop();
    const numbers = episode.numbers();
    if (episode.wanted() === numbers.at(-1)) episode.go(numbers[0]);
    due = performance.now();
    timer = setTimeout(tick, 0);
    tell();
  }

  function change(by) {
    speed = Math.min(SPEEDS.length - 1, Math.max(0, speed + by));
    tell();
  }

  function tell() {
    button.textContent = timer === null ? "play (space)" : "pause (space)";
    document.getElementById("speed").textContent = `${SPEEDS[speed]} a second`;
  }

  button.addEventListener("click", toggle);
  document.getElementById("slower").addEventListener("click", () => change(-1));
  document.getElementById("faster").addEventListener("click", () => change(1));
  const before = sessionStorage.getItem("plays");
  sessionStorage.removeItem("plays");
  if (before !== null) {
    speed = Number(before);
    toggle();
  }
  tell();
  show(episode.wanted());
  return { show, toggle, stop, change };
}
