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

  // What scrolls sideways can be reached and scrolled by keyboard.
  const mark = () => {
    for (const box of document.querySelectorAll(".scroll, .display, pre")) {
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

  // A link into a folded part opens it; paper shows everything.
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let box = target?.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
  };
  reveal();
  addEventListener("hashchange", reveal);
});

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

// The explorer, opened from a file, says how tall it is; its frame follows.
addEventListener("message", (event) => {
  for (const frame of document.querySelectorAll(".explorer iframe")) {
    if (event.source === frame.contentWindow && event.data.explorerHeight) frame.style.height = `${event.data.explorerHeight}px`;
  }
});
