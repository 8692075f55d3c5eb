// Shows the API's tasks, or why they cannot be shown.
const state = document.getElementById("state");

async function json(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return answer.json();
}

show();

async function show() {
  try {
    const { api } = await json("/config.json");
    if (!api) {
      state.textContent = "No API is configured: set NEXT_PUBLIC_API_URL.";
      return;
    }
    const tasks = await json(`${api}/api/tasks`);
    for (const { title } of tasks) {
      document.getElementById("tasks").append(
        Object.assign(document.createElement("li"), { textContent: title }));
    }
    state.textContent = `${api}: ${tasks.length} tasks`;
  } catch (error) {
    state.textContent = `The API does not answer (${error.message}).`;
  }
}
