// The page's own script: shortcuts, and the brush that paints masks. Events are caught
// at the document, so that it does not matter when parts of the page are replaced.
(() => {
  "use strict";
  const button = (id) => document.querySelector(`#${id} button, button#${id}`);
  const press = (id) => {
    const found = button(id);
    if (found && !found.disabled && found.offsetParent) found.click();
    return Boolean(found);
  };

  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      // What is typed reaches the page's state a moment after the last key.
      setTimeout(() => press("make"), 150);
    } else if (event.key === "Escape") {
      press("cancel");
    }
  });

  // Gradio's radio buttons are groups of one each: arrow keys are up to us.
  document.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const group = event.target.closest?.("#task, #direction");
    if (!step || !group || event.target.type !== "radio") return;
    event.preventDefault();
    const all = [...group.querySelectorAll("input[type=radio]")];
    const next = all[(all.indexOf(event.target) + step + all.length) % all.length];
    next.click();
    next.focus();
  });

  // Called with the inputs of a job: the last of them becomes the mask that is painted.
  window.soraflaxInputs = (...inputs) => {
    const canvas = document.querySelector(".brush canvas");
    inputs[inputs.length - 1] = canvas && canvas.painted ? canvas.toDataURL() : "";
    if (window.innerWidth < 900) {
      document.querySelector("#stage").scrollIntoView({ behavior: "smooth" });
    }
    return inputs;
  };

  const COLOUR = "#f43f5e";
  const state = (canvas) => (canvas.state ??= { history: [], x: 0.5, y: 0.5 });
  const tools = (canvas) => canvas.closest(".brush");
  const radius = (canvas) => {
    const percent = Number(tools(canvas).querySelector("input").value);
    return (percent / 200) * Math.min(canvas.width, canvas.height);
  };
  const erases = (canvas) =>
    tools(canvas).querySelector("[data-brush=erase]").ariaPressed === "true";

  const remember = (canvas) => {
    const { history } = state(canvas);
    const whole = [0, 0, canvas.width, canvas.height];
    history.push(canvas.getContext("2d").getImageData(...whole));
    if (history.length > 20) history.shift();
  };

  const line = (canvas, from, to) => {
    const context = canvas.getContext("2d");
    context.globalCompositeOperation = erases(canvas) ? "destination-out" : "source-over";
    context.strokeStyle = context.fillStyle = COLOUR;
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = 2 * radius(canvas);
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
    // A line of no length is not drawn.
    context.beginPath();
    context.arc(...to, radius(canvas), 0, 2 * Math.PI);
    context.fill();
    canvas.painted = true;
  };

  const place = (canvas, event) => {
    const box = canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * canvas.width,
      ((event.clientY - box.top) / box.height) * canvas.height,
    ];
  };

  document.addEventListener("pointerdown", (event) => {
    const canvas = event.target.closest?.(".brush canvas");
    if (!canvas) return;
    event.preventDefault();
    canvas.focus();
    canvas.setPointerCapture(event.pointerId);
    remember(canvas);
    canvas.last = place(canvas, event);
    line(canvas, canvas.last, canvas.last);
  });
  document.addEventListener("pointermove", (event) => {
    const canvas = event.target.closest?.(".brush canvas");
    if (!canvas || !canvas.last) return;
    for (const each of event.getCoalescedEvents?.() ?? [event]) {
      const next = place(canvas, each);
      line(canvas, canvas.last, next);
      canvas.last = next;
    }
  });
  for (const name of ["pointerup", "pointercancel"]) {
    document.addEventListener(name, (event) => {
      const canvas = event.target.closest?.(".brush canvas");
      if (canvas) canvas.last = null;
    });
  }

  // Without a pointer: arrow keys move the brush, space paints a dot.
  document.addEventListener("keydown", (event) => {
    const canvas = event.target.closest?.(".brush canvas");
    if (!canvas) return;
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const at = state(canvas);
    if (moves[event.key]) {
      at.x = Math.min(1, Math.max(0, at.x + moves[event.key][0] / 24));
      at.y = Math.min(1, Math.max(0, at.y + moves[event.key][1] / 24));
    } else if (event.key === " ") {
      remember(canvas);
      const point = [at.x * canvas.width, at.y * canvas.height];
      line(canvas, point, point);
    } else {
      return;
    }
    event.preventDefault();
    const cross = canvas.parentElement;
    cross.style.setProperty("--x", `${100 * at.x}%`);
    cross.style.setProperty("--y", `${100 * at.y}%`);
    cross.classList.add("keys");
  });

  const actions = {
    erase(canvas, pressed) {
      pressed.ariaPressed = String(pressed.ariaPressed !== "true");
    },
    undo(canvas) {
      const before = state(canvas).history.pop();
      if (before) canvas.getContext("2d").putImageData(before, 0, 0);
    },
    clear(canvas) {
      remember(canvas);
      canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    },
    invert(canvas) {
      remember(canvas);
      const context = canvas.getContext("2d");
      context.globalCompositeOperation = "source-out";
      context.fillStyle = COLOUR;
      context.fillRect(0, 0, canvas.width, canvas.height);
      canvas.painted = true;
    },
  };
  document.addEventListener("click", (event) => {
    const pressed = event.target.closest?.("[data-brush]");
    if (!pressed) return;
    actions[pressed.dataset.brush](tools(pressed).querySelector("canvas"), pressed);
  });
})();
