document.documentElement.classList.add("js");
for (const figure of document.querySelectorAll(".compare")) {
  const range = figure.querySelector("input"), stack = figure.querySelector(".stack");
  const show = (value) => { range.value = value; figure.style.setProperty("--x", range.value + "%"); };
  const follow = (event) => {
    const box = stack.getBoundingClientRect();
    show(100 * (event.clientX - box.left) / box.width);
  };
  range.addEventListener("input", () => show(range.value));
  stack.addEventListener("pointerdown", (event) => { stack.setPointerCapture(event.pointerId); follow(event); });
  stack.addEventListener("pointermove", (event) => { if (stack.hasPointerCapture(event.pointerId)) follow(event); });
  for (const button of figure.querySelectorAll("button")) button.addEventListener("click", () => show(button.value));
  for (const image of figure.querySelectorAll("img")) image.draggable = false;
}
for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", async () => {
  const text = button.parentElement.querySelector("pre");
  try { await navigator.clipboard.writeText(text.textContent); button.textContent = "Copied"; }
  catch { getSelection().selectAllChildren(text); }
});
