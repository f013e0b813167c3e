// Small comforts; every page is whole without them.

// Narrow screens start with the contents folded (this runs before the text is drawn).
const menu = document.querySelector(".menu");
const narrow = matchMedia("(max-width: 67.99rem)");
const fold = () => { menu.open = !narrow.matches; };
fold();
narrow.addEventListener("change", fold);

document.addEventListener("DOMContentLoaded", () => {
  // A copy button on each piece of code.
  for (const block of document.querySelectorAll(".highlight")) {
    const button = document.createElement("button");
    button.className = "copy";
    button.type = "button";
    button.textContent = "Copy";
    button.setAttribute("aria-label", "Copy this code");
    button.addEventListener("click", async () => {
      const text = block.querySelector("pre").textContent;
      try {
        await navigator.clipboard.writeText(text);
      } catch {
        const area = document.body.appendChild(document.createElement("textarea"));
        area.value = text;
        area.select();
        document.execCommand("copy");
        area.remove();
      }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    block.append(button);
  }

  // What scrolls sideways (on phones a long formula in the text, too) can be reached by keyboard.
  const mark = () => {
    for (const box of document.querySelectorAll(".scroll, .display, pre, article p, article li")) {
      if (box.scrollWidth > box.clientWidth + 1) {
        box.tabIndex = 0;
        box.setAttribute("role", "group");
        box.setAttribute("aria-label", "Scrolls sideways");
      } else {
        for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
      }
    }
  };
  mark();
  document.fonts?.ready.then(mark);
  addEventListener("resize", mark);
  document.addEventListener("toggle", mark, true);

  // The contents list follows the reader.
  const entries = new Map();
  for (const link of document.querySelectorAll(".toc a")) {
    const heading = document.getElementById(decodeURIComponent(link.hash.slice(1)));
    if (heading) entries.set(heading, link);
  }
  const follow = () => {
    let current = null;
    for (const heading of entries.keys()) {
      if (heading.getBoundingClientRect().top < innerHeight / 3) current = heading;
    }
    for (const [heading, link] of entries) {
      if (heading === current) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  };
  follow();
  addEventListener("scroll", () => requestAnimationFrame(follow), { passive: true });

  // A link into a folded part opens it.
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let box = target?.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
  };
  reveal();
  addEventListener("hashchange", reveal);

  // Pages within the page run where their still picture is, once it comes near.
  const near = new IntersectionObserver((seen) => {
    for (const { target, isIntersecting } of seen) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      const frame = document.createElement("iframe");
      frame.src = target.getAttribute("href");
      frame.title = target.querySelector("img").alt;
      target.hidden = true;
      target.before(frame);
    }
  }, { rootMargin: "200px" });
  for (const link of document.querySelectorAll(".frame > a")) near.observe(link);

  for (const plot of document.querySelectorAll(".plot")) stack(plot);
  search();
});

// Panels that stand in one row are shown one below the other where the screen is narrow.
function stack(plot) {
  const frames = [...plot.querySelectorAll("g[id*='-axes_'] > g:first-child > path")].map((path) => path.getBBox());
  frames.sort((a, b) => a.x - b.x);
  const gaps = frames.slice(1).map((frame, i) => [frames[i].x + frames[i].width, frame.x]);
  const row = frames.every((f) => Math.abs(f.y - frames[0].y) + Math.abs(f.height - frames[0].height) < 1);
  if (frames.length < 2 || !row || gaps.some(([end, start]) => end > start)) return;
  const { x, y, width, height } = plot.viewBox.baseVal;
  const cuts = [x, ...gaps.map(([end, start]) => end + Math.min(7, 0.3 * (start - end))), x + width];
  const box = document.createElement("div");
  box.className = "panels";
  plot.before(box);
  box.append(plot);
  for (let i = 1; i < cuts.length; i++) {
    const panel = box.appendChild(plot.cloneNode(false));
    panel.setAttribute("class", "panel");
    panel.setAttribute("viewBox", `${cuts[i - 1]} ${y} ${cuts[i] - cuts[i - 1]} ${height}`);
    panel.style.setProperty("--width", `${((cuts[i] - cuts[i - 1]) * 4) / 3}px`);
    panel.removeAttribute("aria-label");
    panel.removeAttribute("role");
    panel.setAttribute("aria-hidden", "true");
    panel.innerHTML = `<use href="#${plot.firstElementChild.id}"/>`;
  }
}

addEventListener("beforeprint", () => {
  for (const box of document.querySelectorAll("main details:not([open])")) {
    box.open = true;
    box.dataset.folded = "";
  }
});
addEventListener("afterprint", () => {
  for (const box of document.querySelectorAll("[data-folded]")) {
    box.open = false;
    delete box.dataset.folded;
  }
});

// A framed page, opened from a file, says how tall it is; its frame follows.
addEventListener("message", (event) => {
  for (const frame of document.querySelectorAll(".frame iframe")) {
    if (event.source === frame.contentWindow && event.data.frameHeight) frame.style.height = `${event.data.frameHeight}px`;
  }
});

// ---------------------------------------------------------------- search

let sections = null; // [{ url, title, heading, text }], loaded when search is first opened

function searchData(pages) {
  sections = pages.flatMap(([name, title, parts]) =>
    parts.map(([anchor, heading, text]) => ({
      url: `${name}.html${anchor ? `#${anchor}` : ""}`,
      title,
      heading: heading || title,
      text,
      plain: ` ${simple(text)}`,
      head: ` ${simple(`${title} ${heading}`)}`,
    })),
  );
}

const simple = (text) => text.toLowerCase().normalize("NFD").replace(/[\u0300-\u036f]/g, "").replace(/[^\p{L}\p{N}]+/gu, " ");

/** The sections that hold every word, or a longer one that begins so; headings count most. */
function find(query) {
  const words = simple(query).trim().split(" ").filter(Boolean);
  const hits = [];
  for (const section of sections ?? []) {
    let score = 0;
    for (const word of words) {
      const times = section.plain.split(` ${word}`).length - 1;
      const value = (section.head.includes(` ${word}`) ? 8 : 0) + Math.min(times, 5);
      score = value ? score + value : -Infinity;
    }
    if (score > 0) hits.push({ ...section, score });
  }
  return hits.sort((a, b) => b.score - a.score).slice(0, 12);
}

/** Some text around the first hit, with the words marked. */
function excerpt(text, query) {
  const words = query.trim().split(/\s+/).map((word) => word.replace(/[^\p{L}\p{N}]/gu, "")).filter(Boolean);
  const pattern = new RegExp(`(?<![\\p{L}\\p{N}])(${words.join("|")})`, "giu");
  const at = Math.max(0, text.search(pattern) - 60);
  const piece = document.createElement("span");
  (at ? `… ${text.slice(at, at + 180)} …` : text.slice(0, 180)).split(pattern).forEach((part, i) => {
    if (i % 2) piece.appendChild(document.createElement("mark")).textContent = part;
    else piece.append(part);
  });
  return piece;
}

function search() {
  const button = document.querySelector(".find");
  const dialog = document.body.appendChild(document.createElement("dialog"));
  dialog.setAttribute("aria-label", "Search all pages");
  dialog.innerHTML = '<input type="search" aria-label="Search all pages" placeholder="Search all pages"><ol></ol><p role="status"></p>';
  const [input, list, status] = dialog.children;

  const show = () => {
    const query = input.value.trim();
    const hits = query ? find(query) : [];
    list.replaceChildren(
      ...hits.map((hit) => {
        const item = document.createElement("li");
        const link = item.appendChild(document.createElement("a"));
        link.href = hit.url;
        link.appendChild(document.createElement("b")).textContent = hit.heading === hit.title ? hit.title : `${hit.heading} · ${hit.title}`;
        link.append(excerpt(hit.text, query));
        link.addEventListener("click", () => dialog.close());
        return item;
      }),
    );
    status.textContent = !sections ? "Loading …" : !query ? "Type a word; ↓ goes to the results." : hits.length ? "" : "Nothing found.";
    status.hidden = !status.textContent;
  };
  const open = () => {
    if (!sections && !document.querySelector("script[src='search-data.js']")) {
      const script = document.createElement("script");
      script.src = "search-data.js";
      script.addEventListener("load", show);
      document.head.append(script);
    }
    show();
    dialog.showModal();
    input.select();
  };
  input.addEventListener("input", show);
  button.addEventListener("click", open);
  button.hidden = false;
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    const links = [...list.querySelectorAll("a")];
    const here = links.indexOf(document.activeElement);
    if (event.key === "Enter" && here < 0) links[0]?.click();
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    event.preventDefault();
    const next = here + (event.key === "ArrowDown" ? 1 : -1);
    (links[Math.min(next, links.length - 1)] ?? input).focus();
  });
  addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !dialog.open) {
      event.preventDefault();
      open();
    }
  });
}
