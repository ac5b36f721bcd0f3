// The keys and the cursor. Every page works without this file: it only spares loading whole pages.

const policy = window.trustedTypes
  ? trustedTypes.createPolicy("view", { createHTML: (text) => text })
  : { createHTML: (text) => text };
const trusted = (text) => policy.createHTML(text);

document.documentElement.classList.add("has-script");
document.addEventListener("click", (event) => {
  const button = event.target.closest("button.copy");
  if (button) copy(button);
});

const facts = document.getElementById("facts-for-script");
const list = document.getElementById("steps");
const part = (file, name) => import(`/static/${file}.js`).then((parts) => parts[name]);
if (facts && list) openEpisode(facts.dataset, list);
else openTable();
if (facts && !list && facts.dataset.version) {
  part("live", "followEpisode").then((follow) => follow({ data: facts.dataset, numbers: () => [] }));
}
if (document.getElementById("episodes")) part("live", "followTable").then((follow) => follow(trusted));

function isForUs(event) {
  // A closed dialog keeps the focus until the page is drawn again.
  const inField = event.target.closest && event.target.closest("input, select, textarea, dialog[open]");
  return !(event.ctrlKey || event.metaKey || event.altKey || inField);
}

function openTable() {
  document.addEventListener("keydown", (event) => {
    if (!isForUs(event)) return;
    const links = [...document.querySelectorAll("tbody td:first-child a")];
    const place = links.indexOf(document.activeElement);
    if (event.key === "j") links[Math.min(place + 1, links.length - 1)]?.focus();
    else if (event.key === "k") links[Math.max(place - 1, 0)]?.focus();
    else if (event.key === "/") document.querySelector("input[type=search]")?.focus();
    else return;
    event.preventDefault();
  });
}

function openEpisode(data, steps) {
  let rows;
  let numbers;
  let failed;
  // The largest effect first.
  const credited = data.credit ? data.credit.split(" ").map(Number) : [];
  const pane = document.getElementById("pane");
  const timeline = document.getElementById("timeline");
  const first = Number(timeline.dataset.first);
  const stored = document.getElementById("panes");
  const isReport = stored !== null;
  const kept = new Map();
  let hasState = new URLSearchParams(location.search).get("tab") === "state";
  let follower = null;
  let film = null;
  let glides = false;
  readList();
  let current = Number(steps.querySelector("[aria-current]")?.dataset.step ?? numbers[0]);
  let wanted = current;

  function readList() {
    rows = [...steps.querySelectorAll("a.row")];
    numbers = rows.map((row) => Number(row.dataset.step));
    failed = data.failed ? data.failed.split(" ").map(Number) : [];
  }

  // Some lines are new or others than before.
  function grown(changed) {
    readList();
    for (const step of changed) for (const tab of [true, false]) kept.delete(`${step} ${tab}`);
    if (!numbers.includes(wanted)) return;
    mark(wanted, { isQuiet: true });
    if (changed.includes(current) && wanted === current) renew(current);
  }

  // The shown step has more to show: what is open or scrolled stays so.
  async function renew(step) {
    const html = await text(step).catch(() => undefined);
    if (html === undefined || wanted !== step || pane.contains(document.activeElement)) return;
    const open = [...pane.querySelectorAll("details")].map((part) => part.open);
    const top = pane.scrollTop;
    pane.innerHTML = trusted(html);
    pane.querySelectorAll("details").forEach((part, place) => (part.open = open[place] ?? part.open));
    pane.scrollTop = top;
  }

  const unpacked = isReport ? unpack(stored.textContent.trim()) : null;

  function address(step) {
    return isReport ? `#${step}` : `/e/${data.id}/${step}${hasState ? "?tab=state" : ""}`;
  }

  async function text(step) {
    if (isReport) return (await unpacked)[step] ?? leftOut(step);
    const key = `${step} ${hasState}`;
    if (!kept.has(key)) {
      const answer = await fetch(`/e/${data.id}/${step}/pane${hasState ? "?tab=state" : ""}`);
      if (!answer.ok) throw new Error(String(answer.status));
      kept.set(key, await answer.text());
      if (kept.size > 64) kept.delete(kept.keys().next().value);
    }
    return kept.get(key);
  }

  function mark(step, { isQuiet = false } = {}) {
    for (const row of rows) {
      if (row.hasAttribute("aria-current")) {
        row.removeAttribute("aria-current");
        row.tabIndex = -1;
      }
    }
    const row = rows[numbers.indexOf(step)];
    row.setAttribute("aria-current", "step");
    row.tabIndex = 0;
    if (!isQuiet) reveal(row);
    film?.show(step);
    document.querySelector("#cursor path")?.setAttribute("d", `M${step - first}.5 0v1`);
    const place = numbers.indexOf(step);
    point("previous", numbers[place - 1]);
    point("next", numbers[place + 1]);
  }

  function point(id, step) {
    const link = document.getElementById(id);
    if (!link) return;
    link.hidden = step === undefined;
    if (step !== undefined) link.href = address(step);
  }

  function reveal(row) {
    const top = row.parentElement.offsetTop;
    const isAbove = top < steps.scrollTop + 44;
    const isBelow = top + 66 > steps.scrollTop + steps.clientHeight;
    if (isAbove || isBelow) steps.scrollTop = top - steps.clientHeight / 2;
  }

  async function go(step, { isClick = false, isBack = false } = {}) {
    if (!numbers.includes(step)) {
      // It is outside of the list's window: the server has it.
      if (!isReport) location.href = address(step);
      return;
    }
    wanted = step;
    mark(step);
    let html;
    try {
      html = await text(step);
    } catch {
      location.href = address(step);
      return;
    }
    if ((wanted !== step && !glides) || html === undefined) return;
    pane.innerHTML = trusted(html);
    pane.scrollTop = 0;
    current = step;
    if (isBack || glides) return;
    if (isClick) history.pushState({ step }, "", address(step));
    else history.replaceState({ step }, "", address(step));
    if (!isReport) requestIdle(() => numbers.includes(step + 1) && text(step + 1).catch(() => {}));
  }

  // The cursor moves at once, and the pane as soon as it can.
  async function glide(step) {
    if (glides) {
      wanted = step;
      mark(step);
      return;
    }
    glides = true;
    await go(step);
    glides = false;
  }

  // The cursor has come to rest: so do the pane and the address.
  function settle() {
    glides = false;
    return go(wanted);
  }

  function by(n) {
    const place = numbers.indexOf(wanted) + n;
    if (place >= 0 && place < numbers.length) return go(numbers[place]);
    const edge = document.querySelector(n > 0 ? "#steps > a.more:last-child" : "#steps > a.more:first-child");
    if (edge && Math.abs(n) === 1) location.href = edge.href;
    else if (numbers.length) go(numbers[n > 0 ? numbers.length - 1 : 0]);
  }

  const keys = {
    j: () => by(1), k: () => by(-1), J: () => by(10), K: () => by(-10),
    ArrowDown: () => by(1), ArrowUp: () => by(-1),
    n: () => jump(failed.find((step) => step > wanted)),
    p: () => jump(failed.findLast((step) => step < wanted)),
    c: () => jump(credited[(credited.indexOf(wanted) + 1) % (credited.length || 1)]),
    d: () => data.diverged !== "" && go(Number(data.diverged)),
    g: () => go(first), G: () => go(isReport ? numbers[numbers.length - 1] : Number(data.last)),
    w: () => { if (!isReport) { hasState = !hasState; go(wanted); } },
    u: () => { if (!isReport) location.href = "/"; },
    f: () => follower?.toggle(),
    " ": () => film?.toggle(), "[": () => film?.change(-1), "]": () => film?.change(1),
    "?": () => document.getElementById("help").showModal(),
  };

  function jump(step) {
    if (step !== undefined) go(step);
  }

  document.addEventListener("keydown", (event) => {
    if (!isForUs(event) || !Object.hasOwn(keys, event.key)) return;
    if (event.key.startsWith("Arrow") && !steps.contains(document.activeElement)) return;
    if (event.key === " " && (!film || event.target.closest("button, summary"))) return;
    event.preventDefault();
    // Who walks by themselves no longer follows.
    if (!["f", "w", "?", "[", "]"].includes(event.key)) follower?.stop();
    if (!["f", "w", "?", "[", "]", " "].includes(event.key)) film?.stop();
    keys[event.key]();
    if (steps.contains(document.activeElement)) rows[numbers.indexOf(wanted)]?.focus({ preventScroll: true });
  });

  document.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    const link = event.target.closest("a");
    if (!link) return;
    if (link.id === "previous" || link.id === "next") {
      event.preventDefault();
      by(link.id === "next" ? 1 : -1);
    } else if (link.classList.contains("whole")) {
      event.preventDefault();
      keys.w();
    } else if (link.dataset.step !== undefined) {
      event.preventDefault();
      follower?.stop();
      go(Number(link.dataset.step), { isClick: true });
    }
  });

  timeline.addEventListener("click", (event) => {
    const box = document.getElementById("cursor").getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    if (share < 0 || share > 1) return;
    const count = Number(timeline.dataset.count);
    const step = first + Math.min(count - 1, Math.floor(share * count));
    if (!isReport) return go(step, { isClick: true });
    const nearest = numbers.reduce((a, b) => (Math.abs(b - step) < Math.abs(a - step) ? b : a));
    go(nearest, { isClick: true });
  });

  function fromAddress() {
    const text = isReport ? location.hash.slice(1) : location.pathname.split("/")[3];
    return text && numbers.includes(Number(text)) ? Number(text) : undefined;
  }

  window.addEventListener("popstate", () => {
    const step = fromAddress();
    if (step !== undefined && step !== current) go(step, { isBack: true });
    else if (step === undefined && !isReport) location.reload();
  });

  const help = document.getElementById("show-help");
  help.hidden = false;
  help.addEventListener("click", keys["?"]);
  mark(current);
  const episode = { data, steps, html: trusted, numbers: () => numbers, wanted: () => wanted, go, glide, settle, grown };
  if (document.getElementById("film")) part("film", "openFilm").then((open) => (film = open(episode)));
  if (data.version) {
    part("live", "followEpisode").then((follow) => (follower = follow(episode)));
  }
  const asked = isReport ? fromAddress() : undefined;
  if (asked !== undefined && asked !== current) go(asked, { isBack: true });
}

// A report of a limited size has not all steps.
function leftOut(step) {
  return `<h2>Step ${step}</h2><p class="note">This step is left out, for the size of the file: <code>trajrec view</code> shows it.</p>`;
}

// The text before the button, or the page's address.
async function copy(button) {
  const text = button.classList.contains("address") ? location.href : button.previousElementSibling.textContent;
  const words = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "copied";
  } catch {
    button.textContent = "the browser forbids it";
  }
  setTimeout(() => (button.textContent = words), 1500);
}

function requestIdle(work) {
  if (window.requestIdleCallback) requestIdleCallback(work);
  else setTimeout(work, 200);
}

// The panes of a report: base64 of raw deflate of JSON, which is step -> HTML.
async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return JSON.parse(await new Response(stream).text());
}
